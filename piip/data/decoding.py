"""Every image of a split decoded before anything is trained on it, and what to type to see all that is wrong."""

import os
import shlex
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from piip.data.layouts import whole_of
from piip.data.sources import DataError, Source
from piip.spec import Ade20kSpec, Data, DetectionSpec

if TYPE_CHECKING:
    from piip.contracts import Dataset

SECONDS_BETWEEN_LINES = 5.0
OWN_NAMES = "ade20k"
"""Instead of a file of names: the data set whose classes are known without one."""


def refuse_broken(dataset: "Dataset", stamps: Path) -> None:
    """Decode every image of a split before anything is trained on it; once, for `stamps` remembers what was good.

    Args:
        dataset: The split.
        stamps: A folder of empty files, named by the digests of splits that were good.

    Raises:
        DataError: Images that cannot be decoded or are not of the annotated size: how many, and the first one's reason.
    """
    if (stamps / dataset.digest).exists():
        return
    total, said = len(dataset), time.monotonic()
    broken: list[DataError] = []
    began = said
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done, error in enumerate(pool.map(dataset.image_error, range(total)), start=1):
            broken += [error] if error else []
            if time.monotonic() - said > SECONDS_BETWEEN_LINES:
                said = time.monotonic()
                rate = done / (said - began)
                print(
                    f"decoding {dataset.source.images}: {done} of {total} images, {rate:.0f} images/s, ETA {(total - done) / rate:.0f} s",
                    file=sys.stderr,
                )
    if broken:
        raise DataError(
            f"{len(broken)} of {total} images cannot be used, first {broken[0]}. "
            f"To leave them out: --set data.broken_images=skip. To see all: {command_of(dataset.source, dataset.spec)}"
        )
    stamps.mkdir(parents=True, exist_ok=True)
    (stamps / dataset.digest).touch()


def command_of(source: Source, data: Data) -> str:
    """What to type to see all that is wrong in a split, whatever its kind of data."""
    words = [str(source.annotations)]
    words += [str(source.images)] if source.images != source.annotations else []
    if source.more and (whole := whole_of(source, data)):
        words = [str(whole[0]), "--split", whole[1]]
    words += ["--kind", data.kind] if data.kind != "coco" else []
    if isinstance(data, DetectionSpec) and source.names:
        words += ["--names", str(source.names)]
    if isinstance(data, Ade20kSpec):
        names = OWN_NAMES if data.name == OWN_NAMES else source.names
        words += ["--names", str(names)] if names else []
        words += [] if data.reduce_zero_label else ["--no-reduce-zero-label"]
        words += ["--ignore-value", str(data.ignore_value)] if data.ignore_value != Ade20kSpec().ignore_value else []
    return shlex.join(["python", "-m", "piip.data.check", *words])
