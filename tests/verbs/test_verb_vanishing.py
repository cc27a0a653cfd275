"""A file or folder that was there when the words were read, and is gone when it is wanted: one line that names it."""

import shutil
from pathlib import Path

import pytest
from verb_options import VERBS, options

from piip import console

CHECKS = (" given_file at", " _given_folder at", " _there at", " _names at")
GIVEN = {(verb, option) for verb, option, hint in options() if any(check in repr(hint) for check in CHECKS)}
"""Options that name what must be there."""


@pytest.fixture
def words(trained, copied, tmp_path) -> dict[str, dict[str, Path | str]]:
    """Verb -> a good command line: option (what is known by its place: the word that --help has) -> value."""
    annotations, images = copied
    photo, names = tmp_path / "photo.jpg", tmp_path / "names.txt"
    shutil.copy(next(images.glob("*.jpg")), photo)
    names.write_text("cat\ndog\n")
    weights = tmp_path / "weights"
    shutil.copytree(trained.checkpoints / "step_00000004", weights)
    maps, pictures = tmp_path / "maps", tmp_path / "pictures"
    maps.mkdir()
    labels = tmp_path / "labels"
    labels.mkdir()
    shutil.copytree(images, pictures)
    wheel = tmp_path / "deepforest.whl"
    wheel.write_bytes(b"PK")
    return {
        "data.demo": {"OUT": tmp_path / "aerial", "--kind": "aerial", "--wheel": wheel},
        "data.pack": {"FOLDER": pictures, "OUT": tmp_path / "packed"},
        "eval": {"--run-id": trained.run_id, "--split": "test", "--annotations": annotations, "--images": images},
        "predict": {"IMAGE": photo, "--run-id": trained.run_id, "--out": tmp_path / "drawn"},
        "convert": {"FILE": weights, "--row": "mask_rcnn_piip_tb_192_128_pico94", "--annotations": annotations},
        "data.check": {"ANNOTATIONS": annotations, "IMAGES": images},
        "data.convert": {"ANNOTATIONS": annotations, "IMAGES": images, "--out": tmp_path / "new.json"},
        "data.convert --names": {
            "ANNOTATIONS": labels,
            "IMAGES": images,
            "--kind": "yolo",
            "--names": names,
            "--out": tmp_path / "x.json",
        },
        "data.check --names": {"ANNOTATIONS": maps, "IMAGES": pictures, "--kind": "ade20k", "--names": names},
    }


def test_every_option_that_names_a_place_is_tried(words):
    assert {(line.split()[0], option) for line, given in words.items() for option in given} >= GIVEN


@pytest.mark.parametrize(("verb", "option"), sorted(GIVEN))
def test_what_vanishes_is_named(say, words, monkeypatch, verb, option):
    given = words.get(f"{verb} {option}") or words[verb]
    place = Path(given[option])

    def vanish() -> None:
        shutil.rmtree(place) if place.is_dir() else place.unlink()

    monkeypatch.setattr(console, "setup_logging", vanish)  # the first thing after the words

    said = say(
        VERBS[verb][0],
        *(word for name, value in given.items() for word in ([name, value] if name[0] == "-" else [value])),
    )

    assert str(place) in said.error
