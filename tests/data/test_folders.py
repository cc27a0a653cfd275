import logging
import os
import unicodedata
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from piip.contracts import Input
from piip.data import open_dataset, open_format
from piip.data.check import check
from piip.data.loader import EvalLoader
from piip.data.samples import ImageInfo
from piip.data.sources import DataError, Source
from piip.spec import ImageNetSpec

WANTED = Input(32, (127.5,) * 3, (127.5,) * 3)
PLAIN = ImageNetSpec(name="custom", rand_augment=None, mixup=0, cutmix=0, smoothing=0)
CLASSES = ("ant", "bee", "cow")


def write(path, color=0, size=(40, 36)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (color, 255 - color, 30)).save(path)


@pytest.fixture
def folder(tmp_path):
    """ant, bee and cow with 3, 2 and 1 images."""
    for label, name in enumerate(CLASSES):
        for number in range(3 - label):
            write(tmp_path / name / f"{number}.png", color=80 * label + 10 * number, size=(40 + 8 * number, 36))
    return tmp_path


def opened(folder, *, training=False, spec=PLAIN, **more):
    return open_dataset(spec, Source(folder, folder), WANTED, training=training, **more)


def test_classes_are_folders_sorted_by_name_and_the_first_images_are_of_all(folder):
    data = opened(folder)

    assert data.classes == [{"id": 0, "name": "ant"}, {"id": 1, "name": "bee"}, {"id": 2, "name": "cow"}]
    assert [info.file_name for info in data.infos] == [
        "ant/0.png", "bee/0.png", "cow/0.png", "ant/1.png", "bee/1.png", "ant/2.png",
    ]  # fmt: skip
    assert data.labels == [0, 1, 2, 0, 1, 0]
    assert [info.file_name for info in opened(folder, max_images=2).infos] == ["ant/0.png", "bee/0.png"]


def test_a_folder_of_splits_is_no_folder_of_classes(folder):
    for split in ("train", "Val"):
        write(folder / "both" / split / "ant" / "0.png")

    with pytest.raises(DataError, match=r"holds splits \(Val, train\), not classes\. Give one of them: .*/both/Val"):
        opened(folder / "both")


def test_hidden_files_are_passed_over_and_others_said(folder, caplog):
    write(folder / "ant" / "._0.png")
    write(folder / ".git" / "0.png")
    (folder / "bee" / "notes.txt").write_text("x")
    write(folder / "bee" / "more" / "LAST.JPEG")
    write(folder / "beside.png")

    with caplog.at_level(logging.WARNING):
        data = opened(folder)

    assert [c["name"] for c in data.classes] == list(CLASSES)
    assert len(data) == 7
    assert "bee/more/LAST.JPEG" in {info.file_name for info in data.infos}
    assert "1 files that are no images left out, first " in caplog.text
    assert "notes.txt" in caplog.text


def test_a_class_without_images_is_refused(folder):
    (folder / "dog").mkdir()

    with pytest.raises(
        DataError, match=r"1 of 4 class folders in .* are without images, first 'dog'\. Images end in \.jpg"
    ):
        opened(folder)


def test_a_folder_without_classes_says_what_is_wanted(tmp_path):
    write(tmp_path / "0.png")

    with pytest.raises(DataError, match=r"no class folders in .* \(1 images\)\. Wanted: .*<class>/\*\.jpg"):
        opened(tmp_path)


def test_the_digest_is_of_names_and_sizes(folder):
    before = opened(folder).digest

    assert opened(folder).digest == before
    (folder / "ant" / "0.png").rename(folder / "ant" / "9.png")
    renamed = opened(folder).digest
    write(folder / "bee" / "0.png", size=(80, 72))
    assert len({before, renamed, opened(folder).digest}) == 3


def test_a_class_is_one_whether_its_accent_is_composed_or_not(tmp_path):
    write(tmp_path / unicodedata.normalize("NFD", "café") / "0.png")
    write(tmp_path / "tea" / "0.png")

    assert opened(tmp_path).classes[0] == {"id": 0, "name": unicodedata.normalize("NFC", "café")}


def test_one_class_alone_teaches_nothing(tmp_path):
    write(tmp_path / "café" / "0.png")

    for call in (opened, lambda folder: check(folder, folder, data=ImageNetSpec(name="custom"))):
        with pytest.raises(DataError, match=r"one class folder in .*, 'café': nothing to tell apart"):
            call(tmp_path)


def test_names_of_folders_are_shown_on_one_line(tmp_path):
    for name in ("ant\nhill", "bee"):
        write(tmp_path / name / "0.png")

    assert [c["name"] for c in opened(tmp_path).classes] == ["ant hill", "bee"]


@pytest.mark.parametrize("pair", [("café", "cafe\u0301"), ("ant hill", "ant\nhill")])
def test_two_folders_that_are_shown_under_one_name_are_refused(pair, tmp_path):
    """Of the first two one would take the other's place, and its images would be lost without a word."""
    for name in (*pair, "bee"):
        write(tmp_path / name / "0.png")

    with pytest.raises(DataError, match=r"the class folder .* is called as .*Rename it, or make the two one"):
        opened(tmp_path)


def test_a_link_back_up_and_a_file_that_is_gone_do_no_harm(folder):
    files = len(opened(folder))
    (folder / "ant" / "all").symlink_to(folder)
    (folder / "ant" / "above").symlink_to(folder.parent)
    (folder / "ant" / "gone.png").symlink_to("nothing")

    data = opened(folder)

    assert len(data) == files + 1
    assert "image not found" in str(data.image_error([i.file_name for i in data.infos].index("ant/gone.png")))
    assert len(data.digest) == 16


def test_names_that_are_no_text_are_refused(tmp_path):
    for name in ("ant", "bee"):
        write(tmp_path / name / "0.png")
    os.rename(tmp_path / "bee" / "0.png", os.fsencode(tmp_path / "bee") + b"/\xff.png")

    with pytest.raises(DataError, match=r"1 names in .* are no Unicode text"):
        opened(tmp_path)


@pytest.mark.parametrize("training", [True, False])
def test_all_images_are_squares_of_the_networks_resolution(folder, training):
    sample = opened(folder, training=training).sample(3, 5)

    assert sample.image.shape == (3, 32, 32)
    assert (sample.info.height, sample.info.width) == (36, 48)
    assert -1 <= sample.image.min() <= sample.image.max() <= 1
    assert (sample.target is None) != training


def test_labels_are_smoothed_over_all_classes(folder):
    data = opened(folder, training=True, spec=PLAIN.override({"smoothing": 0.3}))

    torch.testing.assert_close(data.sample(1, 0).target["probabilities"], torch.tensor([0.1, 0.8, 0.1]))


def test_a_sample_is_a_function_of_seed_and_index_whatever_other_threads_do(folder):
    data = opened(folder, training=True, spec=ImageNetSpec(name="custom"))
    jobs = [(index, seed) for index in range(6) for seed in range(4)]
    alone = {job: data.sample(*job).image for job in jobs}

    with ThreadPoolExecutor(4) as pool:
        together = dict(zip(jobs, pool.map(lambda job: data.sample(*job).image, jobs), strict=True))

    assert all(torch.equal(together[job], alone[job]) for job in jobs)
    assert not torch.equal(alone[(3, 0)], alone[(3, 1)])


def test_a_batch_is_mixed_by_its_seed_and_images_and_evaluation_never_is(folder):
    spec = PLAIN.override({"mixup": 0.8, "cutmix": 1.0})
    data, val = opened(folder, training=True, spec=spec), opened(folder, spec=spec)
    samples = [data.sample(index, 0) for index in (0, 1)]

    first, again, other = (data.collate(samples, seed) for seed in (0, 0, 1))

    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)
    shares = torch.stack([target["probabilities"] for target in first.targets])
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(2))
    assert 0 < shares[0, 1] < 1
    alone = data.collate(samples[:1], 0)  # nothing to mix with
    assert torch.equal(alone.images[0], samples[0].image)
    assert torch.equal(val.collate([val.sample(0, 0)]).images[0], val.sample(0, 0).image)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_batches_are_the_same_for_any_number_of_workers(folder, world_size, monkeypatch):
    data = opened(folder)
    monkeypatch.setattr(data, "eval_batch", 4, raising=False)

    loaders = [EvalLoader(data, rank, world_size) for rank in range(world_size)]

    batches = [[info.image_id for info in batch.infos] for loader in loaders for batch in loader]
    assert sorted(batches) == [[1, 2, 3, 4], [5, 6]]
    assert sum(map(len, loaders)) == 6


def test_what_is_no_image_inside_is_refused_or_skipped(folder):
    (folder / "bee" / "1.png").write_bytes(b"no image")
    skipping = PLAIN.override({"broken_images": "skip"})

    assert "not an image (8 bytes)" in str(opened(folder).image_error(4))
    with pytest.raises(DataError, match="not an image"):
        list(EvalLoader(opened(folder)))
    (batch,) = EvalLoader(opened(folder, spec=skipping))
    assert [info.image_id for info in batch.infos] == [1, 2, 3, 4, 6]
    training = opened(folder, training=True, spec=skipping).sample(4, 0)
    assert training.info.file_name == "ant/2.png"
    assert training.target["probabilities"].argmax() == 0  # of the image that is there instead


def result(*logits):
    form = open_format(PLAIN, WANTED, [{"id": k, "name": f"c{k}"} for k in range(len(logits))])
    info = ImageInfo(7, "x/7.png", 36, 40)
    return form, info, form.to_file({"logits": torch.tensor(logits)}, info)


def test_a_result_names_five_classes_by_probability_and_equal_ones_by_number():
    _, _, found = result(0.0, 2.0, 1.0, 2.0, 0.0, 0.0, 1.0)

    assert [entry["category_id"] for entry in found] == [1, 3, 2, 6, 0]
    # e^2 / (2 e^2 + 2 e + 3)
    assert found[0] == {"image_id": 7, "category_id": 1, "name": "c1", "score": pytest.approx(0.3183, abs=1e-4)}


def test_results_come_back_from_their_table():
    form, info, found = result(0.0, 2.0)
    other = ImageInfo(8, "y/8.png", 36, 40)

    table = form.to_table([(other, form.to_file({"logits": torch.tensor([1.0, 0.0])}, other)), (info, found)])

    assert table.column_names[:2] == ["image_id", "file_name"]
    assert form.from_table(table, info) == found
    assert form.to_table([]).schema == table.schema


@pytest.mark.parametrize(("threshold", "said"), [(0.5, "c1 0.88"), (0.9, "c1 0.88, c0 0.12")])
def test_the_surest_class_is_said_and_all_where_it_is_not_sure(threshold, said):
    form, _, found = result(0.0, 2.0)

    assert form.describe(found, score_threshold=threshold) == said


def test_classes_are_drawn_over_the_image_each_in_its_colour():
    form, _, found = result(0.0, 2.0)
    image = Image.new("RGB", (300, 200), "white")

    one, both = (np.asarray(form.draw(image, found, score_threshold=t)) for t in (0.5, None))

    line = one.shape[0] - np.flatnonzero((one == both).all(axis=(1, 2)))[::-1]
    assert len(line) > one.shape[0] // 2
    assert (one[0, 0] == (230, 60, 40)).all()  # of category 1, counted from 0
    assert {tuple(pixel) for pixel in both[:, 1]} >= {(230, 60, 40), (0, 114, 235), (255, 255, 255)}
    assert not (np.asarray(form.draw(image, [{"name": "c0", "category_id": 0}])) == 255).all()
