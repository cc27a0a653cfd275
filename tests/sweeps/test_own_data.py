import re
from pathlib import Path

import pytest
from tiny import ROWS

from piip.data.sources import Source
from piip.spec import Ade20kSpec, CocoSpec, ExperimentSpec, ImageNetSpec
from piip.sweeps.own_data import OwnData, own_sources

FILES = {f"{split}_{kind}": Path(f"{split}/{kind}") for split in ("train", "val") for kind in ("annotations", "images")}
IMAGES = {name: path for name, path in FILES.items() if name.endswith("images")}


def row(data) -> ExperimentSpec:
    return ROWS["pico"][0].override({"data": data.model_dump(mode="json")})


def test_none_given_is_none():
    assert own_sources(OwnData(), ROWS["pico"]) == {}


@pytest.mark.parametrize("data", [CocoSpec(), Ade20kSpec()])
def test_annotations_and_images_are_absolute_paths_by_split(data):
    sources = own_sources(OwnData(**FILES), [row(data)])

    assert sources == {
        s: Source(Path(s, "annotations").absolute(), Path(s, "images").absolute()) for s in ("train", "val")
    }


def test_label_maps_have_names_beside_them():
    sources = own_sources(OwnData(**FILES, names=Path("classes.txt")), [row(Ade20kSpec())])

    assert {source.names for source in sources.values()} == {Path("classes.txt").absolute()}


def test_folders_of_classes_are_their_own_annotations():
    sources = own_sources(OwnData(**IMAGES), [row(ImageNetSpec())])

    assert sources["val"] == Source(Path("val/images").absolute(), Path("val/images").absolute())


@pytest.mark.parametrize(
    ("given", "rows", "said"),
    [
        (IMAGES, [CocoSpec()],
         "your own data for detection (coco) needs all of --train-annotations, --train-images, --val-annotations, --val-images; "
         "missing: --train-annotations, --val-annotations"),
        ({"names": Path("x")}, [ImageNetSpec()], "needs all of --train-images, --val-images; missing: --train-images, --val-images"),
        (FILES, [ImageNetSpec()],
         "--train-annotations, --val-annotations is not for classification (imagenet), which takes --train-images, --val"),
        (FILES | {"names": Path("x")}, [CocoSpec()],
         "--names is not for detection (coco), which takes --train-annotations, --train-images"),
        (IMAGES, [CocoSpec(), ImageNetSpec()], "these rows read data of 2 kinds: detection (coco), classification (imagenet). Name rows"),
    ],
)  # fmt: skip
def test_a_flag_too_few_or_too_many_is_named(given, rows, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        own_sources(OwnData(**given), [row(data) for data in rows])
