"""Odd documents and images: what the check calls good is trained, scored and drawn, with the counts it said; all refuse the rest."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from inputs import grey
from odd_documents import SIZES, VALUES, good_document
from odd_images import BROKEN, MODES, save_image
from PIL import Image

from piip.data.check import check
from piip.data.decoding import refuse_broken
from piip.data.formats.coco import CocoDataset
from piip.data.sources import DataError, Source
from piip.models.heads.rcnn import RCNN
from piip.models.heads.roi_heads import build_roi_heads
from piip.spec import CocoSpec, MaskRCNNSpec

SPEC = CocoSpec(name="custom", short_ratio=1.0, pad_multiple=32, flip=0.0)
STRIDES = (4, 8, 16, 32)


@st.composite
def documents(draw):
    """Bytes of an annotation file of which up to three things are odd."""
    document = good_document()
    for _ in range(draw(st.integers(0, 3))):
        entries = document[draw(st.sampled_from(["annotations", "annotations", "images", "categories"]))]
        if not entries:
            continue
        entry = entries[draw(st.integers(0, len(entries) - 1))]
        match draw(st.sampled_from(["value", "value", "value", "gone", "again", "none"])):
            case "value":
                entry[draw(st.sampled_from(sorted(entry) or ["id"]))] = draw(st.sampled_from(VALUES))
            case "gone" if entry:
                del entry[draw(st.sampled_from(sorted(entry)))]
            case "again":
                entries.append(dict(entry) | {"id": draw(st.sampled_from([9, 2**53 + 3, entry.get("id")]))})
            case _:
                entries.remove(entry)
    text = json.dumps(document)
    if draw(st.integers(0, 9)) == 0:
        text = text.replace('"id": 1', '"id": 1, "id": 1', 1)
    return text.encode(draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"])))


IMAGES = st.sampled_from(["good"] * 20 + list(MODES + BROKEN) + ["other size"])


@pytest.fixture(scope="module")
def head():
    torch.manual_seed(0)
    small = {
        "fpn_channels": 8,
        "box_channels": 8,
        "mask_channels": 8,
        "mask_convs": 1,
        "rpn_pre_nms": 50,
        "rpn_post_nms": 20,
    }
    return RCNN((4,) * 4, MaskRCNNSpec(num_classes=2, box_samples=16, **small), build_roi_heads).train()


def train(head, batch) -> float:
    """One step of the head alone, on maps of noise."""
    height, width = batch.images.shape[-2:]
    maps = [torch.rand(len(batch.images), 4, height // stride, width // stride) for stride in STRIDES]
    loss = sum(head(maps, batch.sizes, batch.targets).values())
    head.zero_grad()
    loss.backward()
    return float(loss.detach())


def words_of(source: Source) -> list[str]:
    """What the check refuses a split with; nothing of one that is good."""
    try:
        report = check(source.annotations, source.images)
    except DataError as error:
        return [str(error)]
    fatal = [problem.message for found in report.problems.values() for problem in found if problem.fatal]
    # that an image is broken is said by its path alone, and all that are missing are said at once
    return [*fatal, *(message.partition(": ")[2] for message in fatal), "images not found"] if fatal else []


def open_whole(source: Source, stamps: Path, *, training: bool) -> None:
    """As a sweep and an evaluation open a split before anything starts."""
    refuse_broken(CocoDataset(source, SPEC, grey(64, masks=False), training=training), stamps)


def is_kept(folder: Path, head) -> bool:
    """Whether the check's word on a folder holds; True: it was good."""
    source = Source(folder / "a.json", folder)
    said = words_of(source)
    if said:
        for training in (True, False):
            with pytest.raises(DataError) as refused:
                open_whole(source, folder / "stamps", training=training)
            assert any(words in str(refused.value) for words in said)
        return False
    report = check(source.annotations, source.images)
    seen = report.seen
    masks = seen.training["masks"] > 0 and "boxes without a mask" not in seen.training
    data = CocoDataset(source, SPEC, grey(64, masks=masks), training=True)
    samples = [data.sample(index, 0) for index in range(len(data))]
    assert len(samples) == seen.training["images"]
    assert sum(len(sample.target["boxes"]) for sample in samples) == seen.training["boxes"]
    if masks:
        assert sum(len(s.target["mask_runs"][:, 0].unique()) for s in samples) == seen.training["masks"]
        if len(data.classes) == 2:
            for _ in range(2):
                assert np.isfinite(train(head, data.collate(samples)))
    scored = CocoDataset(source, SPEC, grey(64), training=False)
    metric = scored.metric()
    for index, info in enumerate(scored.infos):
        truth = scored.truth(index)
        objects = [a for a in truth if not a["iscrowd"]]
        keys = ("image_id", "category_id", "bbox", *(("segmentation",) if seen.scoring["masks"] else ()))
        shapes = [{key: entry[key] for key in keys} | {"score": 0.5} for entry in objects]
        metric.update([shape for shape in shapes if not isinstance(shape.get("segmentation"), list)], info)
        image = Image.fromarray(scored.sample(index, 0).image.mul(0).permute(1, 2, 0).to(torch.uint8).numpy())
        scored.draw(image.resize((info.width, info.height)), truth)
    assert sum(not a["iscrowd"] for k in range(len(scored)) for a in scored.truth(k)) == seen.scoring["boxes"]
    assert all(0 <= value <= 1 for value in metric.compute().values())
    assert metric.truth.masks == (seen.scoring["masks"] > 0)
    return True


def keeps_its_word(document, images, head) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a.json").write_bytes(document)
        for number, (size, how) in enumerate(zip(SIZES, images, strict=True)):
            save_image(Path(folder) / f"{number}.png", size, how)
        is_kept(Path(folder), head)


@given(documents(), st.tuples(IMAGES, IMAGES))
@settings(max_examples=25)
def test_the_check_tells_the_truth(head, document, images):
    keeps_its_word(document, images, head)


@pytest.mark.slow
@given(documents(), st.tuples(IMAGES, IMAGES))
@settings(max_examples=400)
def test_the_check_tells_the_truth_of_many(head, document, images):
    keeps_its_word(document, images, head)


@pytest.mark.parametrize("how", ["good", "16 bits", "turned"])
def test_a_good_document_with_good_images_is_called_good(how, head, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(good_document()))
    for number, size in enumerate(SIZES):
        save_image(tmp_path / f"{number}.png", size, how)

    assert is_kept(tmp_path, head)
