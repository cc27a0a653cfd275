import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import roi_align

from piip.data import masks as module
from piip.data.masks import compressed, decoded, results_of
from piip.data.samples import ImageInfo

CATEGORIES = [{"id": 2, "name": "cat"}, {"id": 7, "name": "dog"}]


@given(arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=30), elements=st.integers(0, 1)))
def test_masks_survive_compression(mask):
    assert (decoded(compressed(mask), *mask.shape) == mask).all()


def test_a_polygon_with_two_parts_is_one_mask():
    square = lambda x: [x, 2, x + 4, 2, x + 4, 6, x, 6]  # noqa: E731
    assert decoded([square(1), square(10)], 10, 20).sum() == 32


def pasted(probabilities, box, height, width):
    """The whole mask."""
    cut = module.pasted(probabilities, box, height, width)
    mask = np.zeros((height, width), dtype=bool)
    mask[cut.top : cut.top + cut.mask.shape[0], cut.left : cut.left + cut.mask.shape[1]] = cut.mask
    return mask


def disc(radius, centre, height=80, width=80):
    rows, columns = np.mgrid[0:height, 0:width] + 0.5
    return (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2


def iou(first, second):
    return (first & second).sum() / (first | second).sum()


@pytest.mark.parametrize("radius", [8, 10, 14, 20, 30])
def test_a_perfect_prediction_pasted_back_is_the_object(radius):
    mask = disc(radius, (40.3, 39.6))
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = [float(v) for v in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)]
    whole = torch.from_numpy(mask)[None, None].float()
    cells = roi_align(whole, [torch.tensor([box])], 28, aligned=True)

    ours = pasted(cells[0, 0].numpy(), box, *mask.shape)
    torchvisions = paste_masks_in_image(cells, torch.tensor([box]), mask.shape)[0, 0].numpy() >= 0.5

    assert iou(ours, mask) >= 0.98
    assert iou(ours, mask) >= iou(torchvisions, mask)


@given(st.lists(st.floats(-30, 110), min_size=4, max_size=4))
def test_a_full_mask_covers_the_pixels_whose_centres_its_box_holds(corners):
    x0, x1 = sorted(corners[:2])
    y0, y1 = sorted(corners[2:])
    if x1 - x0 < 1 or y1 - y0 < 1:
        return

    mask = pasted(np.ones((28, 28), dtype=np.float32), (x0, y0, x1, y1), 60, 80)

    rows, columns = np.mgrid[0:60, 0:80] + 0.5
    inside = (columns > x0) & (columns < x1) & (rows > y0) & (rows < y1)
    assert not (mask & ~inside & (np.minimum(abs(columns - x0), abs(columns - x1)) > 1e-3)
                & (np.minimum(abs(rows - y0), abs(rows - y1)) > 1e-3)).any()  # fmt: skip
    # bilinear towards zero outside: half a cell of the corners is below one half
    assert mask.sum() >= 0.9 * inside.sum() - 4


@pytest.mark.parametrize("box", [(10.3, 8.4, 20.7, 30.6), (68.3, 40.4, 80, 60), (-3, -5, 11.6, 9.7)])
def test_a_pixel_is_covered_where_its_centre_is_however_little_of_it_the_box_meets(box):
    x0, y0, x1, y1 = box

    mask = pasted(np.ones((28, 28), dtype=np.float32), box, 60, 80)

    rows, columns = np.mgrid[0:60, 0:80] + 0.5
    assert (mask == ((columns > x0) & (columns < x1) & (rows > y0) & (rows < y1))).all()


def test_a_pixel_of_probability_one_half_belongs_to_the_object():
    assert pasted(np.full((28, 28), 0.5, dtype=np.float32), (10, 20, 38, 48), 60, 80).sum() == 28 * 28


def prediction(boxes):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    count = len(boxes)
    return {
        "boxes": boxes, "labels": torch.tensor([2, 1, 2][:count]), "scores": torch.linspace(0.9, 0.5, count),
        "masks": torch.ones(count, 1, 28, 28),
    }  # fmt: skip


def test_results_are_in_the_files_own_pixels():
    info = ImageInfo(image_id=5, file_name="a.jpg", height=50, width=100, scale=(2.0, 1.5))

    first, second = results_of(prediction([[15, 20, 75, 60], [30, 10, 60, 90]]), info, CATEGORIES)

    assert first["image_id"] == 5
    assert first["category_id"] == 7
    assert second["category_id"] == 2
    assert first["bbox"] == [10, 10, 40, 20]
    assert first["score"] == pytest.approx(0.9)
    assert first["segmentation"]["size"] == [50, 100]
    assert decoded(first["segmentation"], 50, 100)[11:29, 11:49].all()


def test_results_end_at_the_images_edge():
    info = ImageInfo(image_id=5, file_name="a.jpg", height=50, width=100)

    results = results_of(prediction([[-10, 20, 30, 70], [120, 10, 130, 20], [99.9, 0, 101, 1]]), info, CATEGORIES)

    assert [r["bbox"][:2] for r in results] == [[0, 20], [pytest.approx(99.9), 0]]  # the second is in the padding
    assert results[0]["bbox"][2:] == [30, 30]


def test_nothing_found_is_no_result_and_boxes_alone_have_no_segmentation():
    info = ImageInfo(image_id=5, file_name="a.jpg", height=50, width=100)
    only_boxes = {k: v for k, v in prediction([[1, 1, 9, 9]]).items() if k != "masks"}

    assert results_of(prediction([]), info, CATEGORIES) == []
    assert "segmentation" not in results_of(only_boxes, info, CATEGORIES)[0]


@pytest.mark.parametrize("label", [0, 3, -1])
def test_a_label_that_is_no_class_is_refused(label):
    info = ImageInfo(image_id=5, file_name="a.jpg", height=50, width=100)
    said = prediction([[1, 1, 9, 9]]) | {"labels": torch.tensor([label])}

    with pytest.raises(ValueError, match=rf"labels go from 1 to 2, the head predicts \[{label}\]"):
        results_of(said, info, CATEGORIES)
