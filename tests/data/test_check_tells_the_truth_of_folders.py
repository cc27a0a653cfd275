"""Odd label maps, class folders and images: what the check calls good is trained, scored and drawn; all refuse the rest."""

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from inputs import grey
from odd_images import BROKEN, MODES, save_image
from PIL import Image
from torch.nn.functional import cross_entropy

from piip.contracts import IGNORE
from piip.data import open_dataset
from piip.data.check import check
from piip.data.decoding import refuse_broken
from piip.data.sources import DataError, Source
from piip.models.heads.upernet import pixel_loss
from piip.spec import Ade20kSpec, ImageNetSpec

SIZE = (24, 32)
NAMES = ["a", "b c", "é", "e\u0301", "x/a", "a\nb", "a.b", "😀", "%41?#", "n" * 240, "\udcff", "._a", ".hidden/a"]
HOW = st.sampled_from(["plain"] * 10 + list(MODES + BROKEN) + ["other size"])

MAPS = ("8 bits", "palette", "16 bits", "1 bit", "whole", "ignored", "part", "strange", "large", "negative", "colours", "alpha",
        "float", "cut off", "no bytes", "huge", "gone", "folder", "link to nothing", "jpeg")  # fmt: skip
LISTS = {
    "good": b"other\ncat\ndog\ncow\n", "mark": b"\xef\xbb\xbfother\ncat\ndog\n", "lines": b"other\r\ncat\r\ndog\r\ncow",
    "twice": b"other\ncat\ncat\ndog\n", "empty line": b"other\n\ncat\n", "one": b"other\n", "nothing": b"", "gone": None,
    "columns": b"Idx\tRatio\tName\n1\t.5\tcat\n2\t.5\tdog\n", "no text": b"other\n\xff\xfe\xff\n", "two": b"other\ncat\n",
}  # fmt: skip


def save_map(path: Path, how: str) -> None:
    """A label map of SIZE; of other kinds than named below, 8 bits of the classes 0 to 3."""
    numbers = np.resize(np.arange(4, dtype=np.uint8), SIZE)
    match how:
        case "palette":
            picture = Image.fromarray(numbers)
            picture.putpalette([value for k in range(256) for value in (k, 7 * k % 256, 255 - k)])
            picture.save(path)
        case "16 bits":
            Image.fromarray(numbers.astype(np.uint16)).save(path)
        case "1 bit":
            Image.fromarray(numbers > 1).save(path)
        case "whole" | "large" | "negative":
            odd = {"whole": 1, "large": 70_000, "negative": -1}[how]
            Image.fromarray(np.where(numbers == 1, odd, numbers).astype(np.int32)).save(path, format="TIFF")
        case "ignored":
            Image.fromarray(np.full(SIZE, 255, dtype=np.uint8)).save(path)
        case "part":
            Image.fromarray(np.where(numbers == 1, 255, numbers).astype(np.uint8)).save(path)
        case "strange":
            Image.fromarray(np.where(numbers == 1, 77, numbers).astype(np.uint8)).save(path)
        case "colours" | "alpha":
            Image.fromarray(numbers).convert("RGB" if how == "colours" else "LA").save(path)
        case "jpeg" | "8 bits":
            Image.fromarray(numbers).save(path, format="JPEG" if how == "jpeg" else "PNG")
        case _:
            save_image(path, SIZE, how)


def place(folder: Path, name: str, suffix: str) -> Path:
    path = folder / f"{name}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@st.composite
def map_folders(draw):
    """(names, how each image and map is saved, the list of names, whether 0 is a class)."""
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True))
    files = [(name, draw(HOW), draw(st.sampled_from(["8 bits"] * 8 + list(MAPS)))) for name in names]
    return files, draw(st.sampled_from(["good"] * 6 + sorted(LISTS))), draw(st.booleans())


@st.composite
def class_folders(draw):
    """(class, name, how) of each image, and folders without one."""
    classes = draw(st.lists(st.sampled_from([*NAMES, "train", "val"]), min_size=1, max_size=3, unique=True))
    files = [
        (c, draw(st.sampled_from(NAMES)), draw(HOW))
        for c in classes
        for _ in range(draw(st.sampled_from([1, 1, 1, 2])))
    ]
    return files, draw(st.sampled_from([None] * 6 + ["empty", "turn", "twin", "letters.txt"]))


def words_of(source: Source, spec) -> list[str]:
    """What the check refuses a split with; nothing of one that is good."""
    try:
        report = check(source.annotations, source.images, data=spec)
    except DataError as error:
        return [str(error)]
    fatal = [problem for found in report.problems.values() for problem in found if problem.fatal]
    # images and maps without the other are all said at once
    alone = ["names have no image"] if any(p.kind in ("map without image", "image without map") for p in fatal) else []
    return [*(problem.message for problem in fatal), *alone]


def opened(source: Source, spec, stamps: Path, *, training: bool):
    """As a sweep and an evaluation open a split before anything starts."""
    data = open_dataset(spec, source, grey(32), training=training)
    refuse_broken(data, stamps)
    return data


def is_kept(source: Source, spec, stamps: Path, train) -> bool:
    """Whether the check's word on a split holds; True: it was good. `train(data, batch)` takes a step and gives its loss."""
    if said := words_of(source, spec):
        for training in (True, False):
            with pytest.raises(DataError) as refused:
                opened(source, spec, stamps, training=training)
            assert any(words in str(refused.value) for words in said)
        return False
    seen = check(source.annotations, source.images, data=spec).seen
    data = opened(source, spec, stamps, training=True)
    assert len(data) == seen.training["images"]
    for seed in range(2):
        batch = data.collate([data.sample(index, seed) for index in range(len(data))], seed)
        assert np.isfinite(train(data, batch))
    scored = opened(source, spec, stamps, training=False)
    metric = scored.metric()
    for index, info in enumerate(scored.infos):
        scored.sample(index, 0)
        metric.update(scored.truth(index), info)
        scored.draw(Image.new("RGB", SIZE[::-1]), scored.truth(index))
        scored.from_table(scored.to_table([(info, scored.truth(index))]), info)
    assert set(metric.compute().values()) == {1.0}
    assert len(scored) == seen.scoring["images"]
    assert scored.digest == open_dataset(spec, source, grey(32)).digest
    if isinstance(spec, Ade20kSpec):
        pixels = sum(int((scored._labels(index) != IGNORE).sum()) for index in range(len(scored)))
        assert pixels == seen.training["pixels"] == seen.scoring["pixels"] == metric.confusion.sum()
    return True


def segment(data, batch) -> float:
    weight = torch.zeros(len(data.classes), 3, requires_grad=True)
    logits = torch.einsum("kc,bchw->bkhw", weight, batch.images)
    loss = pixel_loss(logits, torch.stack([target["labels"] for target in batch.targets]))
    loss.backward()
    return float(loss.detach() + weight.grad.sum())


def classify(data, batch) -> float:
    weight = torch.zeros(len(data.classes), 3, requires_grad=True)
    probabilities = torch.stack([target["probabilities"] for target in batch.targets])
    loss = cross_entropy(batch.images.mean(dim=(2, 3)) @ weight.T, probabilities)
    loss.backward()
    return float(loss.detach() + weight.grad.sum())


def maps_keep_their_word(case) -> bool:
    files, names, zero = case
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in ("maps", "images"):
            (root / name).mkdir()
        if LISTS[names] is not None:
            (root / "maps" / "classes.txt").write_bytes(LISTS[names])
        for name, image, map_ in files:
            save_image(place(root / "images", name, ".jpg"), SIZE, image)
            save_map(place(root / "maps", name, ".jpg" if map_ == "jpeg" else ".png"), map_)
        spec = Ade20kSpec(name="custom", reduce_zero_label=zero)
        return is_kept(Source(root / "maps", root / "images"), spec, root / "stamps", segment)


def classes_keep_their_word(case) -> bool:
    files, more = case
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "classes"
        root.mkdir()
        for class_, name, how in files:
            path = place(root / class_, name, ".png")
            if not os.path.lexists(path):
                save_image(path, SIZE, how)
        first = next(iter(root.iterdir()))
        match more:
            case "empty":
                (root / "empty").mkdir()
            case "turn":
                (first / "again").symlink_to(root)
            case "twin":
                (root / "twin").symlink_to(first)
            case "letters.txt":
                (root / more).write_text("a")
        return is_kept(Source(root, root), ImageNetSpec(name="custom"), Path(folder) / "stamps", classify)


@given(map_folders())
@settings(max_examples=15)
def test_the_check_tells_the_truth_of_label_maps(case):
    maps_keep_their_word(case)


@given(class_folders())
@settings(max_examples=15)
def test_the_check_tells_the_truth_of_class_folders(case):
    classes_keep_their_word(case)


@pytest.mark.slow
@given(map_folders())
@settings(max_examples=150)
def test_the_check_tells_the_truth_of_many_label_maps(case):
    maps_keep_their_word(case)


@pytest.mark.slow
@given(class_folders())
@settings(max_examples=150)
def test_the_check_tells_the_truth_of_many_class_folders(case):
    classes_keep_their_word(case)


@pytest.mark.parametrize("how", MODES)
def test_images_of_every_mode_are_good(how):
    assert maps_keep_their_word(([("a", how, "8 bits"), ("b", "plain", "palette")], "good", True))
    assert classes_keep_their_word(([("ant", "a", how), ("bee", "a", "plain")], None))


@pytest.mark.parametrize("how", BROKEN)
def test_images_that_are_none_are_refused(how):
    assert not maps_keep_their_word(([("a", how, "8 bits"), ("b", "plain", "8 bits")], "good", True))
    assert how in ("gone", "folder") or not classes_keep_their_word(
        ([("ant", "a", how), ("ant", "b", "plain"), ("bee", "a", "plain")], None)
    )


def test_an_unreadable_image_whose_map_teaches_nothing_is_refused_in_the_same_words():
    assert not maps_keep_their_word(([("a", "float", "ignored")], "good", False))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "\udcff" and not name.startswith(".")])
def test_files_and_folders_of_any_name_are_good(name):
    assert maps_keep_their_word(([(name, "plain", "8 bits"), ("other", "plain", "8 bits")], "good", True))
    assert classes_keep_their_word(([(name, "a", "plain"), ("other", name, "plain")], None))
