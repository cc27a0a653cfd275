"""Damaged annotation files of every format, for the suite's property test and for fuzzing by the hour (tests/fuzz.py)."""

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from formats import FORMATS, SIZES, coco_document, images
from hypothesis import strategies as st
from inputs import grey

from piip.data import open_dataset
from piip.data.check import check
from piip.data.sources import DataError, Source
from piip.spec.data import named_kind

WANTED = replace(grey(64), masks=False)
ODD = [
    b"", b" ", b"-1", b"0", b"1e999", b"nan", b"inf", b"-inf", b"1e-320", b"99999999999999999999999", b"9" * 5000, b"1.5", b"true",
    b"null", b'""', b"\xff\xfe", b"\x00", b"\xed\xa0\x80", "é".encode(), "\u2028".encode(), b"\r", b"\n", b"\n\n", b",", b'"', b"'",
    b":", b"[", b"]", b"{", b"}", b"<", b">", b"&amp;", b"&x;", b"<a>", b"</object>", b"<object>", b"#", b"- ",
    b"!!python/object:os.system {}", b"*x", b"&x", b"[[[[", b"[]", b"{}", b"../../x", b"1 .5 .5 .2 .2", b"1 .1 .1 .5 .5 .9 .1",
    b"kpt_shape: [2, 3]", b"a" * 300, b"\\ud800", b"1e308", b"-0.0", b"1_0", b"0x1", b"\xef\xbb\xbf", "\u0663".encode(), b"1e5", b"/",
    b"\nflip_idx: [1, 0]\n", b"\nkpt_names: {0: [a, b]}\n", b"\n./images/train/a.jpg\n",
]  # fmt: skip
"""What is put in the place of a piece of a file."""


def coco(root: Path) -> Source:
    images(root / "images")
    (root / "instances.json").write_text(json.dumps(coco_document()))
    return Source(root / "instances.json", root / "images")


def yolo_list(root: Path) -> Source:
    source = FORMATS["yolo"](root)
    (root / "train.txt").write_text("".join(f"./images/train/{name}.jpg\n" for name in SIZES))
    return Source(root / "train.txt", root, source.names)


def yolo_pose(root: Path) -> Source:
    source = FORMATS["yolo"](root)
    for file in source.annotations.iterdir():
        file.write_text("1 .5 .5 .2 .2 .25 .5 2 .5 .5 1\n0 .3 .3 .2 .2 .25 .5 2 0 0 0\n")
    (root / "data.yaml").write_text("names: [cat, dog]\nkpt_shape: [2, 3]\nflip_idx: [1, 0]\n")
    return source


READERS: dict[str, Callable[[Path], Source]] = FORMATS | {"coco": coco, "yolo-list": yolo_list, "yolo-pose": yolo_pose}
"""What is read: a kind of data, and after a dash which form of it -> writes good data of it."""


@st.composite
def damage(draw):
    """Which annotation file, and what becomes of up to three pieces of it: positions as parts of its length."""
    lengths = st.sampled_from([0, 0, 1, 2, 3, 5, 8, 40, 400, 10**6])
    pieces = st.tuples(st.floats(0, 1), lengths, st.sampled_from(ODD))
    return draw(st.integers(0, 20)), draw(st.lists(pieces, min_size=1, max_size=3))


def read_damaged(reader: str, root: Path, source: Source, what: tuple[int, list[tuple[float, int, bytes]]]) -> None:
    """Reads a damaged copy of good data: the check and training agree on it, and nothing but our own error comes of it."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "data"
        shutil.copytree(root, copy)
        files = [
            path
            for path in sorted(copy.rglob("*"))
            if path.is_file() and path.suffix != ".jpg" and "leftImg8bit" not in str(path)
        ]
        file = files[what[0] % len(files)]
        content = file.read_bytes()
        for place, length, piece in what[1]:
            at = int(place * len(content))
            content = content[:at] + piece + content[at + length :]
        file.write_bytes(content)
        moved = Source(
            *(path and copy / path.relative_to(root) for path in (source.annotations, source.images, source.names))
        )
        _same_said(named_kind(reader.partition("-")[0], "custom", short_ratio=1.0, pad_multiple=32), moved)


def _same_said(spec, source: Source) -> None:
    try:
        report = check(source.annotations, source.images, data=spec, names=source.names)
    except DataError:
        report = None
    if report is not None and report.usable:
        assert _learned(spec, source) <= report.seen.training["boxes"]
        assert open_dataset(spec, source, WANTED).metric().compute()
    else:
        with pytest.raises(DataError):
            _learned(spec, source)


def _learned(spec, source: Source) -> int:
    """Objects of all samples of training."""
    dataset = open_dataset(spec, source, WANTED, training=True)
    return sum(len(dataset.sample(index, 0).target["labels"]) for index in range(len(dataset)))
