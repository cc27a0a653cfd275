"""Packed folders in place of those they were made of, and what is said of broken ones."""

import errno
import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from formats import FORMATS
from kinds import DATA
from PIL import Image

from piip.contracts import Input
from piip.data import open_dataset, packing
from piip.data.check import check
from piip.data.check import cli as check_cli
from piip.data.demo.make import Recipe, make_demo
from piip.data.images import read_image
from piip.data.layouts import splits_in
from piip.data.loader import EvalLoader, TrainLoader
from piip.data.pack import cli
from piip.data.packed import Packed
from piip.data.packing import pack, verify
from piip.data.sources import DataError, Source
from piip.spec.data import named_kind

WANTED = Input(96, (123.7, 116.3, 103.5), (58.4, 57.1, 57.4))
PLACES = {kind.places["demo"]: kind for kind in DATA if "demo" in kind.places}
"""Of each kind's demo data -> its spec."""


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "demo"
    make_demo(folder, Recipe(train=6, val=2, maps=1, crops=1, sides=(60, 90)))
    return folder


def source_of(demo: Path, places) -> Source:
    found = [
        demo.parent / place.format(split="train", part="training") if place else None
        for place in (places.annotations, places.images, places.names)
    ]
    assert found[0] is not None
    assert found[1] is not None
    return Source(found[0], found[1], found[2])


def packed_source(source: Source, out: Path, *, pixels: bool) -> Source:
    """Every folder of a source packed, in shards of a few files."""
    folders = {}
    for folder in {source.annotations, source.images}:
        if folder.is_dir():
            pack(folder, out / folder.parent.name / folder.name, shard_bytes=20_000, pixels=pixels)
            folders[folder] = out / folder.parent.name / folder.name
    annotations, images = (folders.get(path, path) for path in (source.annotations, source.images))
    return Source(annotations, images, source.names)


def seen(batches) -> list:
    """All there is in batches, images as bytes."""
    return [
        (b.images.numpy().tobytes(), b.sizes, b.infos, [{k: v.tolist() for k, v in t.items()} for t in b.targets])
        for b in batches
    ]


@pytest.mark.parametrize("pixels", [False, True])
@pytest.mark.parametrize("places", PLACES, ids=lambda places: places.images.replace("/", "_"))
def test_a_packed_split_is_the_split_in_samples_order_digest_and_findings(places, pixels, demo, tmp_path):
    spec, source = PLACES[places].model_copy(update={"name": "own"}), source_of(demo, places)
    packed = packed_source(source, tmp_path, pixels=pixels)
    both = [
        [open_dataset(spec, at, WANTED, training=training) for at in (source, packed)] for training in (True, False)
    ]

    trained, scored = [], []
    for split in both[0]:
        loading = TrainLoader(split, batch_size=4, seed=3).batches_from(1)
        trained.append(seen(islice(loading, 3)))
        loading.close()  # type: ignore[attr-defined]
    scored += [seen(EvalLoader(split)) for split in both[1]]

    assert trained[0] == trained[1]
    assert scored[0] == scored[1]
    assert all(plain.digest == other.digest for plain, other in both)
    reports = [check(at.annotations, at.images, data=spec, names=at.names) for at in (source, packed)]
    assert (reports[0].seen, reports[0].usable) == (reports[1].seen, reports[1].usable)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_whole_data_set_packed_as_one_folder_is_read_as_it_is(kind, tmp_path):
    plain, whole = FORMATS[kind](tmp_path / "data"), tmp_path / "whole"
    pack(tmp_path / "data", whole)
    moved = (path and whole / path.relative_to(tmp_path / "data") for path in vars(plain).values())
    spec, sources = named_kind(kind, "own", short_ratio=1.0), (plain, Source(*moved))
    laid_out = [
        splits_in(folder, spec).get("train") if kind in LAID_OUT else None for folder in (whole, tmp_path / "data")
    ]

    splits = [open_dataset(spec, source, replace(WANTED, masks=False), training=True) for source in sources]

    assert splits[0].digest == splits[1].digest
    assert splits[0].infos == splits[1].infos
    assert seen([s.collate([s.sample(k, 0) for k in range(len(s))]) for s in splits[:1]]) == seen(
        [s.collate([s.sample(k, 0) for k in range(len(s))]) for s in splits[1:]]
    )
    assert laid_out[0] is None or relative(laid_out[0], whole) == relative(laid_out[1], tmp_path / "data")
    words = [str(path) for path in (sources[1].annotations, sources[1].images)]
    assert check_cli([*words, "--kind", kind, *(["--names", str(sources[1].names)] if plain.names else [])]) == 0


LAID_OUT = ("yolo", "voc", "crowdhuman", "openimages", "cityscapes")
"""Kinds whose whole folder says where everything is."""


def relative(source: Source, folder: Path) -> list[Path | None]:
    return [path and path.relative_to(folder) for path in vars(source).values()]


def folder_of(tmp_path: Path, files: int = 6) -> Path:
    folder = tmp_path / "plain"
    for number in range(files):
        path = folder / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((40, 30), 50 + number).convert("RGB").save(path)
    return folder


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("dies_at", [1, 3])
def test_packing_that_was_killed_goes_on_and_ends_in_the_same_bytes(dies_at, tmp_path, monkeypatch):
    folder = folder_of(tmp_path)
    pack(folder, tmp_path / "at once", shard_bytes=9_000)
    write, written = packing._write, []

    def killed(path, *arguments):
        if len(written) == dies_at:
            path.with_name(f".{path.name}.part").write_bytes(b"half")
            raise KeyboardInterrupt
        written.append(path)
        write(path, *arguments)

    monkeypatch.setattr(packing, "_write", killed)
    with pytest.raises(KeyboardInterrupt):
        pack(folder, tmp_path / "twice", shard_bytes=9_000)
    monkeypatch.setattr(packing, "_write", write)
    assert not (tmp_path / "twice" / "pack.json").exists()

    done = pack(folder, tmp_path / "twice", shard_bytes=9_000)

    assert done.kept == dies_at
    assert bytes_of(tmp_path / "twice") == bytes_of(tmp_path / "at once")


def test_files_that_changed_are_packed_anew(tmp_path):
    folder, out = folder_of(tmp_path), tmp_path / "packed"
    pack(folder, out, shard_bytes=1)
    Image.new("RGB", (40, 30), (9, 9, 9)).save(folder / "a" / "0.png")
    (folder / "b" / "5.png").unlink()

    done = pack(folder, out, shard_bytes=1)

    assert (done.files, done.kept) == (5, 4)
    assert (read_image(out / "a" / "0.png") == 9).all()
    assert not (out / "shard-00005.arrow").exists()


def cut(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[:-100])


def changed(shard: Path) -> None:
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "said"), [(cut, "were written"), (changed, "not the bytes that were written"), (Path.unlink, "0 bytes")]
)
def test_a_damaged_shard_is_named(damage, said, tmp_path, capsys):
    out = tmp_path / "packed"
    pack(folder_of(tmp_path), out, shard_bytes=9_000)
    damage(out / "shard-00001.arrow")

    code = cli([str(out)])

    assert code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{out / 'shard-00001.arrow'}: " in line
    assert said in line
    assert check_cli([str(out), "--kind", "imagenet"]) == 1
    told = capsys.readouterr().out
    assert f"1 x damaged shard\n    {line.removeprefix('error: ')}" in told
    assert told.endswith("not usable as it is\n")


def test_an_image_of_a_shard_that_is_cut_off_is_no_image(tmp_path):
    out = tmp_path / "packed"
    pack(folder_of(tmp_path), out, shard_bytes=10**6)
    cut(out / "shard-00000.arrow")

    with pytest.raises(DataError, match=r"shard-00000\.arrow: \d+ bytes, \d+ were written"):
        read_image(out / "a" / "0.png")


@pytest.mark.parametrize(
    ("name", "said"), [("pack.json", "not a whole manifest"), ("index.arrow", "20 bytes, .* written")]
)
def test_a_folder_whose_own_files_are_cut_off_is_named(name, said, tmp_path):
    out = tmp_path / "packed"
    pack(folder_of(tmp_path), out)
    (out / name).write_bytes((out / name).read_bytes()[:20])

    with pytest.raises(DataError, match=f"{name}: {said}"):
        Packed(out)


def test_a_full_disk_is_said_in_a_line_and_leaves_no_half_shard(tmp_path, monkeypatch, capsys):
    folder, out = folder_of(tmp_path), tmp_path / "packed"

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(packing.os, "fsync", full)
    code = cli([str(folder), str(out)])

    assert code == 1
    assert "No space left on device" in capsys.readouterr().err
    assert not list(out.glob("*shard*"))


def test_what_cannot_be_packed_is_refused(tmp_path):
    folder, out = folder_of(tmp_path), tmp_path / "packed"
    pack(folder, out)
    (tmp_path / "empty").mkdir()

    for source, target, said in (
        (folder, folder.parent / "plain" / "in", "lies in it"),
        (out, tmp_path / "again", "is packed"),
        (tmp_path / "empty", tmp_path / "none", "no files to pack"),
        (folder, tmp_path, "a new folder is wanted"),
    ):
        with pytest.raises(DataError, match=said):
            pack(source, target)
    with pytest.raises(DataError, match="begun as"):
        pack(folder, out, pixels=True)


def test_what_is_not_there_is_not_found_in_a_packed_folder_either(tmp_path):
    out = tmp_path / "packed"
    pack(folder_of(tmp_path), out)

    for path in (out / "a" / "nothere.png", tmp_path / "no" / "a.png"):
        with pytest.raises(DataError, match=f"image not found: {path}"):
            read_image(path)


def test_packed_and_whole_is_said(tmp_path, capsys):
    folder, out = folder_of(tmp_path), tmp_path / "packed"

    assert cli([str(folder), str(out)]) == 0
    shutil.rmtree(folder)
    assert cli([str(out), "--json"]) == 0

    said = capsys.readouterr().out
    assert f"6 files in 1 shards packed into {out}" in said
    assert '"files": 6, "shards": 1' in said
    assert verify(out).files == 6


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "CMYK", "turned"])
def test_pixels_stand_for_images_that_need_no_conversion_alone(mode, tmp_path):
    image = Image.effect_noise((40, 30), 50).convert("RGB")
    path = tmp_path / "plain" / ("a.png" if mode == "P" else "a.jpg")
    path.parent.mkdir()
    exif = image.getexif()
    exif[0x0112] = 6 if mode == "turned" else 1
    image.convert("RGB" if mode == "turned" else mode).save(path, exif=exif)

    pack(path.parent, tmp_path / "packed", pixels=True)

    content = bytes(Packed(tmp_path / "packed").content(path.name))
    assert (content == path.read_bytes()) == (mode != "RGB")
    assert torch.equal(read_image(tmp_path / "packed" / path.name), read_image(path))
