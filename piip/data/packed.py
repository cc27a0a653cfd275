"""Packed folders: what a folder of files holds, in a few large files (`piip data pack`), read in its place wherever such a folder is given.

A packed folder has `pack.json` (the shards, their sizes and checksums), `index.arrow` (name, shard, row and size of every file) and shards:
Arrow IPC files of a record batch a file, `name` and `content`. They are mapped into memory, so a file is read without a copy or a seek
through folders, and workers of a machine share the pages. Sizes are those of the files that were packed: so is the digest of a split.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from piip.data.sources import DataError
from piip.options import PACK

if TYPE_CHECKING:  # paths are looked at before anything is computed
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

MANIFEST, INDEX = PACK, "index.arrow"
AGAIN = "Pack it again with the same command, or copy it again"


class Written(NamedTuple):
    """A file of a packed folder, as it was written."""

    name: str
    bytes: int
    sha256: str

    @classmethod
    def now(cls, path: Path) -> "Written":
        """A file as it is."""
        return cls(path.name, path.stat().st_size, checksum(path))


class Packed:
    """A packed folder, opened: its index is read, its shards are mapped when they are first needed.

    Args:
        folder: Which.

    Raises:
        DataError: Its manifest or index is not whole.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        try:
            said = json.loads((folder / MANIFEST).read_text())
            self.shards = [Written(**shard) for shard in said["shards"]]
            self._index = Written(**said["index"])
        except (ValueError, KeyError, TypeError):
            raise DataError(f"{folder / MANIFEST}: not a whole manifest. {AGAIN}") from None
        index = mapped(self._sized(self._index)).to_pydict()
        rows = zip(index["shard"], index["row"], index["size"], strict=True)
        self.files: dict[str, tuple[int, int, int]] = dict(zip(index["name"], rows, strict=True))
        self._tables: dict[int, pa.ChunkedArray] = {}

    def content(self, name: str) -> memoryview:
        """A file's bytes, or the pixels that stand for them (`pixmaps.as_pixels`); not copied.

        Raises:
            DataError: The shard is not there or not whole.
        """
        shard, row, _ = self.files[name]
        if shard not in self._tables:
            self._tables[shard] = mapped(self._sized(self.shards[shard])).column("content")
        return memoryview(self._tables[shard].chunk(row)[0].as_buffer())

    @cached_property
    def folders(self) -> dict[str, tuple[list[str], list[str]]]:
        """Path of every folder, "" of the outermost -> names of the folders and of the files in it."""
        found: dict[str, tuple[list[str], list[str]]] = {"": ([], [])}
        for name in self.files:
            above, _, last = name.rpartition("/")
            self._enter(found, above)
            found[above][1].append(last)
        return found

    def _enter(self, found: dict[str, tuple[list[str], list[str]]], folder: str) -> None:
        if folder not in found:
            above, _, last = folder.rpartition("/")
            self._enter(found, above)
            found[above][0].append(last)
            found[folder] = ([], [])

    def damages(self) -> Iterator[DataError]:
        """Reads every shard, and the index: an error for each that is not what was written."""
        for file in (self._index, *self.shards):
            try:
                if checksum(path := self._sized(file)) != file.sha256:
                    yield DataError(f"{path}: not the bytes that were written. {AGAIN}")
            except DataError as error:
                yield error

    def _sized(self, file: Written) -> Path:
        path = self.folder / file.name
        size = path.stat().st_size if path.is_file() else 0
        if size != file.bytes:
            raise DataError(f"{path}: {size} bytes, {file.bytes} were written. {AGAIN}")
        return path


def mapped(path: Path) -> "pa.Table":
    """An Arrow IPC file, without a copy.

    Raises:
        DataError: It is not there or not whole.
    """
    import pyarrow as pa

    try:
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path}: not a whole Arrow file ({str(error).splitlines()[0]}). {AGAIN}") from None


def checksum(path: Path) -> str:
    """Sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_packed(folder: Path | str) -> bool:
    """Whether it is a packed folder."""
    return os.path.isfile(os.path.join(folder, MANIFEST))


def packed(folder: Path | str) -> Packed:
    """A packed folder, opened once a process."""
    known = os.stat(os.path.join(folder, MANIFEST))
    return _opened(os.fspath(folder), known.st_mtime_ns, known.st_size)


@lru_cache(maxsize=16)
def _opened(folder: str, changed: int, size: int) -> Packed:
    del changed, size  # a folder that was packed again is another
    return Packed(Path(folder))


def packs_of(paths: Iterable[Path]) -> list[Packed]:
    """The packed folders that these are, or lie in, each once."""
    found = (within(path / "file") for path in paths)
    return list({pack.folder: pack for pack, _ in filter(None, found)}.values())


def within(path: Path | str) -> tuple[Packed, str] | None:
    """The packed folder that a path leads into, and the path below it; None where there is none."""
    path = os.path.abspath(path)
    folder = os.path.dirname(path)
    while not is_packed(folder):
        above = os.path.dirname(folder)
        if above == folder:
            return None
        folder = above
    return packed(folder), os.path.relpath(path, folder).replace(os.sep, "/")


def file_within(path: Path) -> tuple[Packed, str] | None:
    """The packed folder and the name there of a file in one; None where there is none, or it is a file of its own."""
    if os.path.isfile(path) or (found := within(path)) is None or found[1] not in found[0].files:
        return None
    return found


def content_of(path: Path) -> memoryview | None:
    """The content of a file in a packed folder; None where it is none, or a file of its own."""
    found = file_within(path)
    return None if found is None else found[0].content(found[1])


def pixels_of(content: memoryview | None) -> "NDArray[np.uint8] | None":
    """(H, W, 3), not copied, of what `pixmaps.as_pixels` gave; None of other contents."""
    if content is None or content[:3] != b"P6\n":
        return None
    import numpy as np

    head = bytes(content[:40]).split(b"\n", 3)
    width, height = map(int, head[1].split())
    start = sum(map(len, head[:3])) + 3
    if len(head) < 4 or head[2] != b"255" or len(content) != start + height * width * 3:
        return None
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(height, width, 3)
