import colorsys
import hashlib
import json
import shlex
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from kinds import DATA
from PIL import Image

from piip.data.check import check
from piip.data.demo import __main__, make
from piip.data.demo.make import Recipe, ensure_demo, make_demo
from piip.data.demo.scene import HUE_SPREAD, HUES, PHOTOGRAPHS, _fill, _photograph, scene
from piip.data.demo.shapes import SHAPES
from piip.data.locating import locate
from piip.data.masks import decoded
from piip.spec import CocoSpec
from piip.spec.data import words_for
from piip.sweeps.own_data import OwnData, own_sources

SMALL = Recipe(train=12, val=5)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "small"
    make_demo(out, SMALL)
    return out


def content(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def document(folder, split="train"):
    return json.loads((folder / "annotations" / f"instances_{split}.json").read_text())


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(small, tmp_path):
    make_demo(tmp_path / "again", SMALL)
    make_demo(tmp_path / "other", Recipe(train=12, val=5, seed=1))

    assert content(tmp_path / "again") == content(small)
    assert content(tmp_path / "other")["train/000001.jpg"] != content(small)["train/000001.jpg"]


def test_more_images_begin_with_the_same_ones(small, tmp_path):
    make_demo(tmp_path / "more", Recipe(train=14, val=5))
    few, more = content(small), content(tmp_path / "more")
    assert all(more[name] == few[name] for name in few if name.startswith("train/"))


def test_the_data_passes_our_own_check(small):
    for split in ("train", "val"):
        report = check(small / "annotations" / f"instances_{split}.json", small / split)
        assert report.usable
        assert report.problems == {}


def test_there_are_twelve_classes_with_gaps_in_their_ids(small):
    ids = [category["id"] for category in document(small)["categories"]]
    assert len(ids) == 12
    assert ids != list(range(1, 13))


def test_masks_come_in_all_three_forms(small):
    forms = {type(a["segmentation"] if isinstance(a["segmentation"], list) else a["segmentation"]["counts"]).__name__
             + ("" if isinstance(a["segmentation"], list) else " rle") for a in document(small)["annotations"]}  # fmt: skip
    assert forms == {"list", "list rle", "str rle"}


def test_annotations_are_where_the_painted_pixels_are(small):
    names = {category["id"]: category["name"] for category in document(small)["categories"]}
    annotations = iter(document(small)["annotations"])
    for image in document(small)["images"]:
        painted = scene(
            np.random.default_rng([SMALL.seed, 0, image["id"]]), "train", sides=SMALL.sides, objects=SMALL.objects
        )
        for thing in painted.objects:
            annotation = next(annotations)
            mask = decoded(annotation["segmentation"], *thing.mask.shape).astype(bool)
            x, y, w, h = annotation["bbox"]

            assert (annotation["image_id"], names[annotation["category_id"]]) == (image["id"], thing.name)
            assert (mask & thing.mask).sum() / (mask | thing.mask).sum() > 0.9
            assert not mask[: int(y)].any()
            assert not mask[:, : int(x)].any()
            assert not mask[int(np.ceil(y + h)) :].any()
            assert not mask[:, int(np.ceil(x + w)) :].any()
    assert next(annotations, None) is None


def test_label_maps_say_what_is_painted_where(small):
    for file in sorted((small / "ade20k/annotations/training").glob("*.png")):
        rng = np.random.default_rng([SMALL.seed, 0, int(file.stem[-8:]), make.MAPS])
        names = list(rng.choice(list(SHAPES), size=rng.integers(6, 13)))
        painted = scene(rng, "train", sides=SMALL.sides, objects=SMALL.objects, names=names)
        numbers = np.array(Image.open(file))

        assert numbers.shape == painted.image.shape[:2]
        for number, name in enumerate(SHAPES, start=1):
            masks = [thing.mask for thing in painted.objects if thing.name == name]
            assert np.array_equal(numbers == number, np.any(masks, axis=0) if masks else np.zeros_like(numbers, bool))


def test_objects_keep_to_the_limits_of_the_task():
    rng = np.random.default_rng(0)
    for _ in range(40):
        drawn = scene(rng, "train", sides=(160, 288), objects=(20, 120))
        assert len(drawn.objects) <= 5
        assert 160 <= min(drawn.image.shape[:2]) <= max(drawn.image.shape[:2]) <= 288
        if drawn.objects:
            assert np.sum([thing.mask for thing in drawn.objects], axis=0).max() == 1  # the visible parts do not meet
        for thing in drawn.objects:
            side = np.ptp(thing.outline[0], axis=0).max()
            assert side >= 20 - 1e-9
            assert side <= 120


@pytest.mark.parametrize("name", SHAPES)
def test_every_class_is_drawn_with_its_own_outline(name):
    outer = SHAPES[name][0]
    assert np.abs(outer).max() <= 1.01
    assert np.ptp(outer, axis=0).min() > 0.8


@pytest.mark.parametrize("name", SHAPES)
def test_colour_narrows_a_class_to_three_of_twelve(name):
    paint = np.concatenate([_fill(np.random.default_rng(seed), name, 16, 16).reshape(-1, 3) for seed in range(20)])
    hues = [360 * colorsys.rgb_to_hsv(*pixel)[0] for pixel in paint[::37] / 255]

    away = [abs((hue - HUES[name] + 180) % 360 - 180) for hue in hues]
    assert HUE_SPREAD / 2 < max(away) <= HUE_SPREAD + 1e-3
    assert sum(hue == HUES[name] for hue in HUES.values()) == 3
    assert HUE_SPREAD < 45  # the parts of the wheel do not meet


def test_the_splits_share_no_photograph_and_all_are_in_the_wheels():
    assert not set(PHOTOGRAPHS["train"]) & set(PHOTOGRAPHS["val"])
    for name in (*PHOTOGRAPHS["train"], *PHOTOGRAPHS["val"]):
        assert min(_photograph(name).size) >= 300


def test_crops_and_maps_are_there_for_the_other_tasks(small):
    crops = Counter(crop.parent.name for crop in (small / "imagenet/train").glob("*/*.jpg"))
    assert crops == dict.fromkeys(SHAPES, SMALL.train * SMALL.crops // len(SHAPES))
    for kind, suffix in (("images", "jpg"), ("annotations", "png")):
        assert len(list((small / f"ade20k/{kind}/validation").glob(f"*.{suffix}"))) == 5


def test_the_demo_is_made_once_and_found(piip_home, monkeypatch):
    root = ensure_demo(recipe=SMALL)
    assert root == piip_home / "data" / "demo"
    assert locate(CocoSpec(name="demo"), "train").images == root / "train"

    monkeypatch.setattr(make, "make_demo", lambda *a: pytest.fail("drawn again"))
    assert ensure_demo(recipe=SMALL) == root


def test_another_recipe_makes_it_anew(tmp_path):
    ensure_demo(tmp_path / "demo", SMALL)
    ensure_demo(tmp_path / "demo", Recipe(train=3, val=2))
    assert len(document(tmp_path / "demo")["images"]) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == [".demo.lock", "demo"]


def test_two_at_once_make_it_once(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(make, "make_demo", lambda *a, real=make_demo: made.append(real(*a)))
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: ensure_demo(tmp_path / "demo", Recipe(train=2, val=1)), range(3)))
    assert len(made) == 1


def test_an_interrupted_drawing_leaves_what_was_there(small, tmp_path, monkeypatch):
    make_demo(tmp_path / "demo", Recipe(train=2, val=1))
    before = content(tmp_path / "demo")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(make, "add_imagenet", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_demo(tmp_path / "demo", SMALL)
    assert content(tmp_path / "demo") == before

    monkeypatch.undo()
    make_demo(tmp_path / "demo", SMALL)
    assert content(tmp_path / "demo") == content(small)


@pytest.mark.parametrize("neighbour", ["demo.old", "demo.tmp", ".demo.building", ".demo.old"])
def test_neighbours_stay_as_they_are(neighbour, tmp_path):
    (tmp_path / neighbour).mkdir()
    (tmp_path / neighbour / "labels.json").write_text("x")

    for _ in range(2):  # the second time there is a folder to replace
        make_demo(tmp_path / "demo", Recipe(train=1, val=1))

    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["demo", neighbour])
    assert (tmp_path / neighbour / "labels.json").read_text() == "x"


def test_a_link_stays_a_link_and_the_folder_behind_it_is_filled(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "demo").symlink_to(tmp_path / "disk")

    make_demo(tmp_path / "demo", Recipe(train=1, val=1))

    assert (tmp_path / "demo").is_symlink()
    assert (tmp_path / "disk" / "recipe.json").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo", "disk"]


@pytest.mark.parametrize(
    "mine", ["labels.json", "annotations/mine.json", "train/holiday.jpg", "imagenet/val/star/a.jpg"]
)
def test_files_that_somebody_put_into_the_demo_are_not_deleted_with_it(mine, tmp_path):
    make_demo(tmp_path / "demo", Recipe(train=1, val=1))
    (tmp_path / "demo" / mine).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "demo" / mine).write_text("years of work")

    with pytest.raises(ValueError, match=f"holds 1 files that are not demo data, first {mine}"):
        make_demo(tmp_path / "demo", Recipe(train=2, val=1))

    assert (tmp_path / "demo" / mine).read_text() == "years of work"


def test_a_folder_of_somebody_else_is_not_touched(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="exists and is not demo data"):
        make_demo(tmp_path, SMALL)
    assert (tmp_path / "thesis.tex").exists()


@pytest.mark.parametrize(
    "wrong", [{"train": 0}, {"seed": -1}, {"sides": (288, 160)}, {"sides": (20, 30)}, {"objects": (2, 120)}]
)
def test_a_recipe_that_cannot_be_drawn_is_refused(wrong):
    with pytest.raises(ValueError, match=r"got|needs"):
        Recipe(**wrong)


@pytest.mark.parametrize("data", [data for data in DATA if "demo" in data.places], ids=lambda data: data.kind)
def test_its_last_lines_are_flags_that_training_takes(small, piip_home, data):
    (line,) = (line for line in __main__.use(small, SMALL) if line.startswith(f"  {words_for(data)}: "))
    words = ["", *shlex.split(line.partition(": ")[2].partition("  #")[0])]
    flags = dict(zip(words[4::2], words[5::2], strict=True))
    own = OwnData(**{flag[2:].replace("-", "_"): Path(path) for flag, path in flags.items()})

    sources = own_sources(own, [SimpleNamespace(data=data)])

    assert words[1:4] == ["piip", "train", "ROW"]
    (piip_home / "data").mkdir()
    (piip_home / "data" / "demo").symlink_to(small)  # where the demo's rows find it
    for split, source in sources.items():
        read = locate(data.model_copy(update={"name": "demo"}), split)
        assert all(ours.samefile(its) for ours, its in zip(paths(source), paths(read), strict=True))


def paths(source):
    return [path for path in (source.annotations, source.images, source.names) if path]


def test_it_says_whether_training_reads_it_where_it_is(piip_home):
    out = piip_home / "data" / "demo"

    assert list(__main__.use(out, Recipe())) == [
        "the demo's rows (piip rows demo) train on it: it lies where they look for it"
    ]
    assert "draw them anew over these" in next(iter(__main__.use(out, SMALL)))
    assert str(out) in next(iter(__main__.use(piip_home / "else", Recipe())))


def test_the_command_line(tmp_path, capsys):
    command = [str(tmp_path / "x"), "--train", "2", "--val", "1", "--json"]

    assert __main__.cli(command) == 0
    counts = json.loads(capsys.readouterr().out)
    assert {name: counts[f"train_{name}"] for name in ("images", "maps", "crops")} == {
        "images": 2,
        "maps": 4,
        "crops": 16,
    }

    assert __main__.cli([*command, "--sides", "300", "200"]) == 2
    assert capsys.readouterr().err.startswith("error: --sides, --objects: image sides go from small to large")
