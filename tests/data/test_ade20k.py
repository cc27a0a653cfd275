import os
import re

import numpy as np
import pytest
import torch
from label_maps import MapFolder, stripes
from PIL import Image

from piip.contracts import IGNORE, Input
from piip.data import open_dataset, open_format
from piip.data.check import check
from piip.data.formats.ade20k_classes import ADE20K
from piip.data.formats.ade20k_files import classes_of, pairs_of
from piip.data.formats.ade20k_results import describe, largest
from piip.data.locating import locate
from piip.data.samples import ImageInfo
from piip.data.sources import DataError, Source
from piip.spec import Ade20kSpec

INPUT = Input(32, (127.5,) * 3, (127.5,) * 3)
REDUCED = Ade20kSpec(name="custom")
WHOLE = Ade20kSpec(name="custom", reduce_zero_label=False)
NAMES = ("other", "cat", "dog", "cow")


@pytest.fixture
def folder(tmp_path) -> MapFolder:
    """Three images of several sizes with numbers 0 to 3, one of them below a folder."""
    made = MapFolder(tmp_path)
    made.add("a", stripes(40, 60))
    made.add("b", stripes(64, 48, (0, 1, 255)))
    made.add("more/c", stripes(20, 90, (2, 3)))
    made.name_classes(*NAMES)
    return made


def opened(folder, spec=REDUCED, *, training=False, **more):
    return open_dataset(spec, folder.source, INPUT, training=training, **more)


@pytest.mark.parametrize(
    ("spec", "classes", "labels"),
    [
        (REDUCED, {1: "cat", 2: "dog", 3: "cow"}, [IGNORE, 0, IGNORE]),
        (WHOLE, dict(enumerate(NAMES)), [0, 1, IGNORE]),
        (WHOLE.override({"ignore_value": 1}), {0: "other", 2: "dog", 3: "cow"}, None),
    ],
)
def test_labels_count_the_classes_that_are_not_ignored(folder, spec, classes, labels):
    if labels is None:
        (folder.maps / "b.png").unlink()
        (folder.images / "b.jpg").unlink()
    data = opened(folder, spec)

    assert {c["id"]: c["name"] for c in data.classes} == classes
    if labels:
        assert data._labels(1)[0, :3].tolist() == labels


def test_names_may_come_in_columns_with_their_numbers(folder):
    (folder.maps / "classes.txt").write_text("Idx\tRatio\tName\n1\t0.4\tcat, kitty\n2\t0.3\tdog\n3\t0.1\tcow\n")

    assert opened(folder).names == {1: "cat", 2: "dog", 3: "cow"}


def test_without_names_it_is_said_what_to_write(folder):
    (folder.maps / "classes.txt").unlink()

    with pytest.raises(
        DataError, match=r"which classes do the label maps .* the first one of number 0, into .*classes.txt"
    ):
        opened(folder)
    folder.name_classes("", "")  # nothing but blank lines
    with pytest.raises(DataError, match="0 classes"):
        opened(folder)


def test_ade20k_is_known_without_a_list(tmp_path, monkeypatch):
    folder = MapFolder(tmp_path / "ade20k")
    for part in ("training", "validation"):
        folder.add(f"{part}/ADE_{part}_1", stripes(33, 44, (0, 1, 150)))
    monkeypatch.setenv("PIIP_DATA", str(tmp_path))

    data = open_dataset(Ade20kSpec(), locate(Ade20kSpec(), "val"), INPUT)

    assert data.classes == ADE20K
    assert (len(ADE20K), ADE20K[0], ADE20K[149]) == (150, {"id": 1, "name": "wall"}, {"id": 150, "name": "flag"})
    assert data._labels(0)[0, :3].tolist() == [IGNORE, 0, 149]


def test_evaluation_sees_the_short_side_at_the_resolution_and_the_long_one_whole(folder):
    data = opened(folder)

    assert [tuple(data.sample(i, 0).image.shape) for i in range(3)] == [(3, 32, 48), (3, 43, 32), (3, 32, 144)]
    assert data.sample(2, 0).info.scale == (1.6, 1.6)
    assert data.sample(0, 0).target is None


def test_training_sees_squares_that_seed_and_index_decide(folder):
    data = opened(folder, training=True)

    samples = [data.sample(i, seed) for i in (0, 1, 2) for seed in range(6)]

    assert {tuple(s.image.shape) for s in samples} == {(3, 32, 32)}
    assert {tuple(s.target["labels"].shape) for s in samples} == {(32, 32)}
    assert {v for s in samples for v in s.target["labels"].unique().tolist()} == {0, 1, 2, IGNORE}
    torch.testing.assert_close(data.sample(1, 5).image, samples[11].image)
    assert len({float(s.image.sum()) for s in samples}) == len(samples)


def test_what_is_learned_lies_where_it_is_seen(tmp_path):
    # the image shows the map: class 1 dark, class 2 bright; whatever is cut, turned and scaled must still agree
    folder = MapFolder(tmp_path)
    numbers = np.where(np.add.outer(np.arange(60) // 15, np.arange(80) // 20) % 2, 1, 2).astype(np.uint8)
    folder.add("a", numbers, pixels=np.repeat((numbers == 2)[..., None] * np.uint8(255), 3, axis=2))
    folder.name_classes(*NAMES)
    data = opened(folder, REDUCED.override({"photometric": False}), training=True)

    for seed in range(20):
        sample = data.sample(0, seed)
        label, seen = sample.target["labels"], sample.image[0]
        content = label != IGNORE
        pure = content & (seen.abs() > 0.9)  # along edges the image is blended
        assert pure.sum() > 0.4 * content.sum()
        assert torch.equal((seen > 0)[pure], (label == 1)[pure])
        assert (seen[~content] == 0).all()


def test_equal_data_have_equal_digests_and_a_changed_map_another(folder):
    before = opened(folder).digest

    assert opened(folder, training=True).digest == before
    folder.add("a", stripes(40, 60, (1, 2, 2)))
    changed = opened(folder).digest
    assert changed != before
    folder.name_classes("other", "cat", "dog", "horse")
    assert opened(folder).digest not in (before, changed)


@pytest.mark.parametrize("kind", ["palette", "16 bits", "bits"])
def test_maps_of_any_depth_give_their_numbers(folder, kind):
    numbers = stripes(40, 60, (1, 2, 3))
    path = folder.maps / "a.png"
    if kind == "palette":
        image = Image.fromarray(numbers).convert("P")
        image.putdata(numbers.ravel().tolist())
        image.putpalette([200, 10, 10] * 256)
    elif kind == "16 bits":
        image = Image.fromarray(numbers.astype(np.uint16) * 400)
        folder.name_classes(*map(str, range(1201)))
    else:
        numbers = numbers % 2
        image = Image.fromarray(numbers.astype(bool))
    image.save(path)

    truth = opened(folder, WHOLE).truth(0)

    assert (truth == (numbers.astype(int) * 400 if kind == "16 bits" else numbers)).all()


FAULTS = {
    "a number beyond the classes": (
        lambda f: f.add("a", stripes(40, 60, (1, 9, 9))),
        r"a.png: 9 \(1600 pixels\) is no class; classes are 1 to 3",
    ),
    "colours": (
        lambda f: Image.new("RGB", (60, 40)).save(f.maps / "a.png"),
        "a.png: RGB pixels; a label map has one whole number a pixel",
    ),
    "another size": (lambda f: f.add("a", stripes(40, 60)) or Image.new("RGB", (59, 40)).save(f.images / "a.jpg"), "a.jpg is"),
    "a truncated map": (
        lambda f: (f.maps / "a.png").write_bytes((f.maps / "a.png").read_bytes()[:60]), "a.png: cannot be decoded"),
    "a truncated image": (
        lambda f: (f.images / "a.jpg").write_bytes((f.images / "a.jpg").read_bytes()[:600]), "a.jpg: cannot be decoded"),
    "no image": (lambda f: (f.images / "a.jpg").write_bytes(b"text"), "a.jpg: not an image"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_with_an_image_or_its_map_is_said_or_skipped(folder, fault, caplog):
    damage, message = FAULTS[fault]
    damage(folder)

    data = opened(folder, training=True)
    with pytest.raises(DataError, match=message):
        data.sample(0, 0)
    assert data.image_error(0) is not None
    assert data.image_error(1) is None

    skipping = opened(folder, REDUCED.override({"broken_images": "skip"}), training=True)
    assert skipping.sample(0, 0).info.file_name == "b.jpg"
    assert list(skipping.broken) == ["a.jpg"]


def test_images_without_a_map_are_refused_or_left_out(folder, caplog):
    (folder.maps / "b.png").unlink()

    with pytest.raises(
        DataError, match=r"1 of 3 names have no image in .* or no label map in .*: 'b'\. They go by name"
    ):
        opened(folder)
    assert [i.file_name for i in opened(folder, REDUCED.override({"broken_images": "skip"})).infos] == [
        "a.jpg",
        "more/c.jpg",
    ]
    assert "left out: 1 of 3 names" in caplog.text


def test_one_name_twice_and_maps_as_jpeg_are_refused(folder):
    Image.new("RGB", (60, 40)).save(folder.images / "a.png")
    with pytest.raises(DataError, match=r"a\.jpg and a\.png are one name"):
        opened(folder)
    (folder.images / "a.png").unlink()
    for path in folder.maps.rglob("*.png"):
        path.unlink()
    with pytest.raises(DataError, match=r"no label maps, nor images\. A map ends in .*JPEG would blur"):
        opened(folder)


def test_folders_given_in_the_wrong_order_are_recognised(folder):
    with pytest.raises(DataError, match=r"no label maps but \d+ images: are the two folders swapped\?"):
        pairs_of(Source(folder.images, folder.maps))


def test_names_are_found_two_folders_up_as_the_demo_has_them(tmp_path):
    maps = tmp_path / "annotations" / "validation"
    maps.mkdir(parents=True)
    spec = Ade20kSpec(name="custom", reduce_zero_label=False)
    with pytest.raises(DataError, match=r"or give such a file: --names FILE"):
        classes_of(Source(maps, maps), spec)
    (tmp_path / "classes.txt").write_text("other\nbolt\n")
    assert [c["name"] for c in classes_of(Source(maps, maps), spec)] == ["other", "bolt"]


def test_results_have_the_files_size_and_numbers_and_come_back_from_a_table(folder):
    data = opened(folder)
    logits = torch.zeros(3, 32, 48)
    logits[2, :, :24], logits[1, :, 24:] = 1, 1

    result = data.to_file({"logits": logits}, data.infos[0])

    assert (result.shape, result.dtype) == ((40, 60), np.uint8)
    assert (result[:, :30] == 3).all()
    assert (result[:, 30:] == 2).all()
    table = data.to_table([(data.infos[0], result), (data.infos[1], data.truth(1))])
    assert (data.from_table(table, data.infos[0]) == result).all()
    assert (data.from_table(table, data.infos[1]) == data.truth(1)).all()
    assert (data.from_table(table, data.infos[2]) == 255).all()
    assert data.describe(result) == "2 classes: cow 50 %, dog 50 %"


@pytest.mark.parametrize("classes", [2, 9, 20])
def test_the_largest_logit_wins_however_many_classes_there_are(classes):
    logits = torch.randn(classes, 7, 9, generator=torch.Generator().manual_seed(classes))

    whole = torch.nn.functional.interpolate(logits[None], size=(20, 31), mode="bilinear", align_corners=False)[0]

    assert torch.equal(largest(logits, (20, 31)), whole.argmax(dim=0))


def test_a_perfect_result_scores_one_and_what_was_skipped_counts_as_missed(folder):
    data = opened(folder)
    metric = data.metric()
    for i in (0, 2):
        metric.update(np.where(data.truth(i) == 0, 1, data.truth(i)), data.infos[i])

    # image b has 64 x 16 pixels of class 1, nobody looked at them; image a 40 x 20 of it
    one = 40 * 20 / (40 * 20 + 64 * 16)
    assert metric.compute()["ade20k/miou"] == pytest.approx((one + 1 + 1) / 3)


def test_predict_needs_no_files(tmp_path):
    form = open_format(REDUCED, INPUT, [{"id": 4, "name": "cat"}, {"id": 300, "name": "dog"}])
    sample = form.prepare(torch.zeros(3, 50, 40, dtype=torch.uint8), ImageInfo(0, "x.jpg", 50, 40))
    batch = form.collate([sample])

    result = form.to_file({"logits": torch.tensor([0.0, 1.0])[:, None, None].expand(2, 40, 32)}, sample.info)

    assert batch.images.shape == (1, 3, 40, 32)
    assert (result.dtype, result.shape, result.max()) == (np.uint16, (50, 40), 300)
    drawn = form.draw(Image.new("RGB", (40, 50)), result)
    assert drawn.width > 40 * 11  # enlarged to 512 pixels, and a legend beside it


def test_what_covers_little_is_there_all_the_same():
    numbers = np.zeros((100, 100), dtype=np.uint16)
    numbers[0, 0] = 3

    assert describe(numbers, {0: "other", 3: "bolt", 4: "ring"}) == "2 classes: other 100 %, bolt < 1 %"


class TestWhatTeachesNothing:
    @pytest.fixture
    def ignored(self, tmp_path):
        made = MapFolder(tmp_path)
        for name in "ab":
            made.add(name, stripes(20, 30, (0, 255)))
        made.name_classes("other", "cat", "dog")
        return made

    @pytest.mark.parametrize("training", [True, False])
    def test_maps_whose_pixels_are_all_ignored_are_refused_by_all(self, ignored, training):
        words = f"{ignored.maps}: nothing to learn or to score: all pixels of 2 label maps are ignored"
        with pytest.raises(DataError, match=re.escape(words)):
            open_dataset(REDUCED, ignored.source, Input(32, (0,) * 3, (1,) * 3), training=training)

        report = check(ignored.maps, ignored.images, data=REDUCED)

        assert not report.usable
        assert [problem.message for problem in report.problems["nothing to learn"]] == [words]

    def test_one_class_beside_what_is_ignored_is_refused_with_advice(self, ignored):
        ignored.name_classes("background", "road")

        with pytest.raises(DataError, match=r"one class, 'road', besides .*reduce_zero_label=false"):
            check(ignored.maps, ignored.images, data=REDUCED)

    def test_the_check_counts_pixels(self, ignored):
        ignored.add("c", stripes(20, 30, (1, 2, 0)))

        report = check(ignored.maps, ignored.images, data=REDUCED)

        assert report.usable
        assert report.seen.training == report.seen.scoring
        assert report.seen.training == {
            "images": 3, "images with classes": 1, "classes": 2, "pixels": 400, "ignored pixels": 1400,
        }  # fmt: skip

    def test_names_are_read_with_a_byte_order_mark_and_shown_on_one_line(self, ignored):
        (ignored.maps / "classes.txt").write_bytes(b"\xef\xbb\xbfother\r\ncat\x1b\r\ndog \r\n")

        classes = classes_of(ignored.source, REDUCED.override({"reduce_zero_label": False}))

        assert [c["name"] for c in classes] == ["other", "cat", "dog"]

    def test_an_empty_line_among_names_is_refused(self, ignored):
        ignored.name_classes("other", "", "dog")

        with pytest.raises(DataError, match="line 2 is empty"):
            classes_of(ignored.source, REDUCED)


def test_what_systems_leave_beside_images_and_maps_is_passed_over_and_links_are_followed(folder, tmp_path):
    files = len(opened(folder))
    for place in (folder.images, folder.maps):
        (place / "._a.png").write_bytes(b"\0\5\x16\7")
        (place / ".ipynb_checkpoints").mkdir()
        (place / ".ipynb_checkpoints" / "a-checkpoint.png").write_bytes(b"")
    elsewhere = MapFolder(tmp_path / "elsewhere")
    elsewhere.add("b", stripes(20, 30))
    (folder.images / "linked").symlink_to(elsewhere.images)
    (folder.maps / "linked").symlink_to(elsewhere.maps)

    assert "linked/b.jpg" in [info.file_name for info in opened(folder).infos]
    assert len(opened(folder)) == files + 1


def test_names_that_are_no_text_are_refused(folder):
    os.rename(folder.images / "a.jpg", os.fsencode(folder.images) + b"/\xff.jpg")

    with pytest.raises(DataError, match=r"1 names in .* are no Unicode text"):
        opened(folder)
