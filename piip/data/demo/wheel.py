"""Four aerial photographs of forests, with boxes of 951 trees, in DeepForest's wheel (MIT licence): fetched when asked, never installed.

The wheel has deepforest/data/NAME.png and NAME.xml; the XML is PASCAL VOC's by its tags, its corners are pixels as DeepForest reads them
(deepforest/utilities.py), counted from 0.
"""

import io
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree
from zipfile import BadZipFile, ZipFile

import numpy as np
from PIL import Image

from piip.data.sources import DataError

VERSION = "2.1.0"
"""Of the package `deepforest`. One version, so that everybody's trials are of equal data."""
PHOTOGRAPHS = (
    "2019_YELL_2_528000_4978000_image_crop2",
    "2019_YELL_2_541000_4977000_image_crop",
    "OSBS_029",
    "SOAP_061",
)
FETCH = f"pip download --no-deps deepforest=={VERSION}"
CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class Photograph:
    """A photograph and its trees."""

    name: str
    pixels: np.ndarray
    """(H, W, 3) uint8, RGB."""
    boxes: np.ndarray
    """(n, 4) xyxy in pixels, inside the photograph."""


@dataclass(frozen=True)
class Found:
    """What is taken from a wheel."""

    photographs: list[Photograph]
    version: str
    """As `deepforest-2.1.0`."""
    licence: str


def fetch(folder: Path) -> Path:
    """The wheel, fetched into a folder with pip from the index that pip is set to.

    Raises:
        DataError: pip is not there or reaches no such wheel.
    """
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "--no-input",
        "--quiet", "--retries", "2", "--dest", str(folder), f"deepforest=={VERSION}",
    ]  # fmt: skip
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if found := sorted(folder.glob("deepforest-*.whl")):
        return found[0]
    said = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
    raise DataError(
        f"pip could not fetch deepforest=={VERSION}: {said[-1]}. Where an index is reached: {FETCH}; then give the file: --wheel FILE"
    )


def read(wheel: Path) -> Found:
    """The photographs of a wheel, and its licence.

    Raises:
        DataError: It is no wheel, or lacks one of them; says which version it is and which is wanted.
    """
    try:
        with ZipFile(wheel) as archive:
            photographs = [_photograph(archive, name) for name in PHOTOGRAPHS]
            return Found(photographs, _version(archive), _licence(archive))
    except (BadZipFile, ElementTree.ParseError, OSError) as error:
        raise DataError(
            f"{wheel} cannot be read as a wheel of DeepForest {VERSION}: {error}. Fetch it: {FETCH}"
        ) from None


def _photograph(archive: ZipFile, name: str) -> Photograph:
    pixels = np.asarray(Image.open(io.BytesIO(_member(archive, f"deepforest/data/{name}.png"))).convert("RGB"))
    root = ElementTree.fromstring(_member(archive, f"deepforest/data/{name}.xml"))
    boxes = [[float(entry.findtext(f"bndbox/{corner}", "nan")) for corner in CORNERS] for entry in root.iter("object")]
    height, width = pixels.shape[:2]
    xyxy = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    # of nan no comparison holds
    inside = (xyxy[:, :2] >= 0).all(1) & (xyxy[:, 2:] <= (width, height)).all(1) & (xyxy[:, :2] < xyxy[:, 2:]).all(1)
    if not inside.all():
        bad = int(np.flatnonzero(~inside)[0])
        raise DataError(
            f"{_who(archive)}: object {bad + 1} of {name}.xml has corners {boxes[bad]}, "
            f"none of a box inside {width} x {height} pixels; wanted: DeepForest {VERSION}. Fetch it: {FETCH}"
        )
    return Photograph(name, pixels, xyxy)


def _licence(archive: ZipFile) -> str:
    names = [name for name in archive.namelist() if ".dist-info/" in name and name.endswith("/LICENSE")]
    return _member(archive, names[0] if names else "*.dist-info/licenses/LICENSE").decode("utf-8", "replace")


def _member(archive: ZipFile, name: str) -> bytes:
    if name not in archive.namelist():
        raise DataError(f"{_who(archive)} lacks {name}; wanted: DeepForest {VERSION}. Fetch it: {FETCH}")
    return archive.read(name)


def _version(archive: ZipFile) -> str:
    tops = {name.split("/")[0] for name in archive.namelist()}
    return next((top.removesuffix(".dist-info") for top in sorted(tops) if top.endswith(".dist-info")), "no version")


def _who(archive: ZipFile) -> str:
    return f"{archive.filename} ({_version(archive)})"
