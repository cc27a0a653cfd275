import re
from pathlib import Path

import pytest
from formats import FORMATS
from tiny import ROWS

from piip.data.sources import Source
from piip.options import UsageError
from piip.spec import Ade20kSpec, CocoSpec, ExperimentSpec, ImageNetSpec, YoloSpec
from piip.sweeps.own_data import OwnData, check_there, of_own_kind, own_named, own_sources

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


class TestAnotherKind:
    def test_it_is_prepared_as_the_rows_own(self):
        first = row(CocoSpec(name="demo", short_ratio=1.0, flip=0.25, pad_multiple=32))

        data = of_own_kind(OwnData(kind="yolo"), first).data

        assert data == YoloSpec(short_ratio=1.0, flip=0.25, pad_multiple=32)
        assert of_own_kind(OwnData(), first) is first

    def test_it_has_the_rows_task(self):
        with pytest.raises(
            UsageError, match=r"--kind yolo is detection, and the row is for classification \(imagenet\)"
        ):
            of_own_kind(OwnData(kind="yolo"), row(ImageNetSpec()))

    def test_one_path_names_both_splits_and_the_data(self, tmp_path):
        FORMATS["yolo"](tmp_path / "birds")
        own = OwnData(kind="yolo", data=tmp_path / "birds" / "data.yaml")
        rows = own_named(own, [of_own_kind(own, row(CocoSpec()))], said=False)

        check_there(own, rows)
        sources = own_sources(own, rows)

        folder = tmp_path / "birds" / "images" / "train"
        assert sources == {
            split: Source(folder, folder, tmp_path / "birds" / "data.yaml") for split in ("train", "val")
        }
        assert rows[0].data.name == "birds"

    def test_one_path_and_others_leave_open_which_is_meant(self, tmp_path):
        with pytest.raises(UsageError, match=r"--data names all of your data; --train-annotations, .* as well"):
            own_sources(OwnData(data=tmp_path, **FILES), [row(CocoSpec())])
        with pytest.raises(UsageError, match=r"--data .*gone: no such folder"):
            check_there(OwnData(data=tmp_path / "gone"), [row(CocoSpec())])
