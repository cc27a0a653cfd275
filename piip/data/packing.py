"""Writing packed folders (piip/data/packed.py): shard by shard, each whole or not there, always the same bytes of the same files."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from piip.data.files import bytes_in, content, files_below
from piip.data.packed import INDEX, MANIFEST, Packed, Written, is_packed, mapped
from piip.data.pixmaps import as_pixels
from piip.data.sources import DataError
from piip.durable import locked, sync_directory, write_atomic

SHARD = pa.schema(
    [("name", pa.string()), ("size", pa.int64()), ("content", pa.large_binary()), ("sha256", pa.binary(32))]
)
ROWS = pa.schema([("name", pa.string()), ("shard", pa.int32()), ("row", pa.int32()), ("size", pa.int64())])


class File(NamedTuple):
    """What is packed."""

    name: str
    """The path below the folder, with /."""
    size: int
    """Bytes."""


class Done(NamedTuple):
    """What `pack` did."""

    files: int
    shards: int
    kept: int
    """Shards that were there, finished."""


def planned(source: Path, shard_bytes: int) -> list[list[File]]:
    """The files of each shard, in order of name: as many as `shard_bytes` hold, at least one.

    Raises:
        DataError: There are none.
    """
    shards: list[list[File]] = []
    filled = shard_bytes
    for path in files_below(source):
        file = File(os.path.relpath(path, source).replace(os.sep, "/"), bytes_in(Path(path)))
        if filled + file.size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(file)
        filled += file.size
    if not shards:
        raise DataError(f"{source}: no files to pack")
    return shards


def pack(
    source: Path, out: Path, *, shard_bytes: int = 64 * 2**20, pixels: bool = False,
    said: Callable[[int, int], None] = lambda done, all_: None,
) -> Done:  # fmt: skip
    """Packs a folder; shards that an earlier call finished stay, and the end is the same bytes as in one go.

    Args:
        source: A folder of files, in folders or not.
        out: A new folder, or one that this was begun in.
        shard_bytes: Of files in a shard, as they are.
        pixels: Images of 8 bits a colour are stored as `as_pixels` has them.
        said: Is called with finished and all shards.

    Raises:
        DataError: No files, one that changes meanwhile, a folder with something else in it, no room.
    """
    if is_packed(source) or out.resolve().is_relative_to(source.resolve()):
        raise DataError(f"{source} is packed, or {out} lies in it: a folder of files is packed into one of its own")
    out.mkdir(parents=True, exist_ok=True)
    shards = planned(source, shard_bytes)
    form = {"version": 1, "pixels": pixels, "shard_bytes": shard_bytes}
    with locked(out / ".lock", patience=1.0):
        _require_mine(out, form)
        kept, written = 0, []
        for number, files in enumerate(shards):
            path = out / f"shard-{number:05}.arrow"
            there = path.is_file() and _holds(path, source, files)
            kept += there
            if not there:
                _write(path, SHARD, _rows(source, files, pixels=pixels))
            written.append(Written.now(path))
            said(number + 1, len(shards))
        places = [(f, number, row) for number, files in enumerate(shards) for row, f in enumerate(files)]
        index = {
            "name": [file.name for file, _, _ in places],
            "shard": [number for _, number, _ in places],
            "row": [row for _, _, row in places],
            "size": [file.size for file, _, _ in places],
        }
        _write(out / INDEX, ROWS, iter([pa.RecordBatch.from_pydict(index, schema=ROWS)]))
        shards_ = [shard._asdict() for shard in written]
        manifest = {**form, "files": len(places), "index": Written.now(out / INDEX)._asdict(), "shards": shards_}
        write_atomic(out / MANIFEST, json.dumps(manifest, indent=1) + "\n")
        for old in out.glob("shard-*.arrow"):  # of a folder that had more files
            if old.name not in {shard.name for shard in written}:
                old.unlink()
    return Done(len(places), len(shards), kept)


def verify(folder: Path) -> Done:
    """Reads all of a packed folder again.

    Raises:
        DataError: Names the shard that is not as it was written.
    """
    pack_ = Packed(folder)
    if error := next(pack_.damages(), None):
        raise error
    return Done(len(pack_.files), len(pack_.shards), len(pack_.shards))


def _require_mine(out: Path, form: dict[str, object]) -> None:
    """Refuses a folder of something else, and one that was begun otherwise; notes how this one is begun."""
    begun = out / "begun.json"
    if not begun.is_file():
        if other := [entry for entry in os.listdir(out) if not entry.startswith(".")]:
            raise DataError(
                f"{out}: holds {sorted(other)[0]!r}; a new folder is wanted, or one that packing was begun in"
            )
        write_atomic(begun, json.dumps(form))
    elif (was := json.loads(begun.read_text())) != form:
        raise DataError(f"{out}: begun as {was}, now {form}. Give the same options, or a new folder")


def _rows(source: Path, files: list[File], *, pixels: bool) -> Iterator[pa.RecordBatch]:
    for file in files:
        stored = _stored(source, file, pixels=pixels)
        row = {
            "name": [file.name],
            "size": [file.size],
            "content": [stored],
            "sha256": [hashlib.sha256(stored).digest()],
        }
        yield pa.RecordBatch.from_pydict(row, schema=SHARD)


def _stored(source: Path, file: File, *, pixels: bool) -> bytes:
    """What is kept of a file."""
    path = source / file.name
    found = content(path)
    if len(found) != file.size:
        raise DataError(f"{path}: {len(found)} bytes, {file.size} when packing began; it changes meanwhile")
    return (as_pixels(path) if pixels else None) or found


def _holds(path: Path, source: Path, files: list[File]) -> bool:
    """Whether a shard is finished, undamaged and of these files: none has been written since."""
    try:
        table = mapped(path)
    except DataError:
        return False
    if list(map(tuple, zip(*table.select(["name", "size"]).to_pydict().values(), strict=True))) != files:
        return False
    finished = path.stat().st_mtime_ns
    if any((source / file.name).stat().st_mtime_ns > finished for file in files):
        return False
    contents, sums = (part[0].as_buffer() for part in table.column("content").chunks), table.column("sha256")
    return all(hashlib.sha256(kept).digest() == told for kept, told in zip(contents, sums.to_pylist(), strict=True))


def _write(path: Path, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
    """An Arrow file that is there whole or not at all."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("wb") as file:
            with pa.ipc.new_file(file, schema) as writer:
                for batch in batches:
                    writer.write_batch(batch)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise DataError(
            f"{path}: {error.strerror or error}. Finished shards stay: with room for the rest, the same command goes on"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)
