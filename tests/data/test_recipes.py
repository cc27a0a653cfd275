"""Whatever a recipe draws: pixels of an object stay in its box and its mask, sizes are the published ones, nothing is lost unsaid."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from inputs import grey

from piip.data import open_dataset
from piip.data.cut_away import cut_away
from piip.data.repeats import repeated
from piip.data.runs import Cut
from piip.data.transforms.detection import boxes_of
from piip.data.transforms.pictures import Picture, cells_of, meeting_point, mosaic, pasted
from piip.data.transforms.recipes import cell_view, drawn_view
from piip.data.transforms.views import View
from piip.ops.mask_runs import array_of, runs_of
from piip.presets import PIIP_CROPS
from piip.spec import CocoSpec
from piip.spec.recipes import CropsSpec, JitterSpec, ScalesSpec, SlicesSpec, parts_of

RECIPES = [
    None,
    ScalesSpec(short=(40, 50, 90), long=120),
    ScalesSpec(short=(40, 90), between=True, long=120),
    CropsSpec(short=(48, 64), long=90, first_short=(40, 60), crop=(30, 50), last_crop=60),
    CropsSpec(short=(48, 64), long=90, first_short=(40, 60), crop=(30, 50), empty_crops=False),
    JitterSpec(side=64),
    SlicesSpec(side=50),
]
seeds = st.integers(0, 2**32)
sides = st.integers(20, 160)


def ids(recipe):
    return recipe.kind if recipe else "none"


def spec_of(recipe, **more):
    return CocoSpec(name="custom", short_ratio=1.0, pad_multiple=32, **({"recipe": recipe} if recipe else {}), **more)


def plain(tensor):
    return tensor.as_subclass(torch.Tensor)


def scene(height, width, rng, count=3):
    """Black, with white filled rectangles that are objects: image, boxes, labels, cuts."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    boxes, cuts = [], []
    for _ in range(count):
        h, w = int(rng.integers(8, height // 2 + 1)), int(rng.integers(8, width // 2 + 1))
        top, left = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
        image[:, top : top + h, left : left + w] = 255
        boxes.append([left, top, left + w, top + h])
        cuts.append(Cut(np.ones((h, w), dtype=np.uint8), top, left))
    return image, boxes_of(torch.tensor(boxes, dtype=torch.float32), (height, width)), torch.arange(1, count + 1), cuts


def masks_of(picture):
    return array_of(picture.runs, torch.arange(len(picture.labels)), picture.size) > 0


def check_pixels_and_objects_agree(picture):
    """Bright pixels are exactly those of masks, but for a pixel at their borders; masks are inside their boxes and fill them."""
    masks = masks_of(picture)
    covered = masks.any(dim=0) if len(masks) else torch.zeros(picture.size, dtype=torch.bool)
    bright, dark = (picture.image[0] >= 250), (picture.image[0] <= 5)
    assert not (covered & dark).any()
    assert not (~covered & bright).any() or not len(masks)
    for box, mask in zip(picture.boxes.tolist(), masks, strict=True):
        rows, columns = mask.nonzero().unbind(1)
        if len(rows):
            assert box[0] - 1 <= columns.min()
            assert columns.max() + 1 <= box[2] + 1
            assert box[1] - 1 <= rows.min()
            assert rows.max() + 1 <= box[3] + 1
            # rectangles: resizing rounds each side by a pixel at most
            w, h = box[2] - box[0], box[3] - box[1]
            assert abs(int(mask.sum()) - w * h) <= w + h + 1


@pytest.mark.parametrize("recipe", RECIPES, ids=ids)
@given(sides, sides, seeds)
@settings(max_examples=15)
def test_pixels_of_an_object_stay_in_its_box_and_its_mask(recipe, height, width, seed):
    rng = np.random.default_rng(seed)
    image, boxes, labels, cuts = scene(height, width, rng, count=1)
    view = drawn_view(spec_of(recipe), (height, width), (100, 80), boxes, rng)

    picture = Picture.of(view, image, boxes, labels, cuts)

    assert picture.size == view.size
    check_pixels_and_objects_agree(picture)


@pytest.mark.parametrize("recipe", RECIPES, ids=ids)
@given(sides, sides, seeds)
@settings(max_examples=15)
def test_objects_keep_the_share_of_their_area_that_is_seen(recipe, height, width, seed):
    rng = np.random.default_rng(seed)
    image, boxes, labels, cuts = scene(height, width, rng)
    view = drawn_view(spec_of(recipe), (height, width), (100, 80), boxes, rng)

    picture = Picture.of(view, image, boxes, labels, cuts)

    shares = view.seen_share(boxes)
    areas = (plain(boxes)[:, 2:] - plain(boxes)[:, :2]).prod(dim=1) * shares * view.scale[0] * view.scale[1]
    for box, label in zip(picture.boxes, picture.labels.tolist(), strict=True):
        torch.testing.assert_close((box[2:] - box[:2]).prod(), areas[label - 1], rtol=1e-3, atol=1e-2)
    # who is not there was not to be seen: less than a pixel wide or high
    for number in {1, 2, 3} - set(picture.labels.tolist()):
        seen = plain(view.boxes(boxes))[number - 1]
        assert (seen[2:] - seen[:2]).min() < 1.001 or shares[number - 1] < 0.1


@given(sides, sides, seeds)
def test_boxes_and_points_come_back_to_the_file(height, width, seed):
    rng = np.random.default_rng(seed)
    _, boxes, *_ = scene(height, width, rng)
    view = drawn_view(spec_of(SlicesSpec(side=50), flip=0.5), (height, width), (100, 80), boxes, rng)
    inside = view.seen_share(boxes) >= 1

    back = view.back(plain(view.boxes(boxes)))

    torch.testing.assert_close(back[inside], plain(boxes)[inside], rtol=0, atol=1e-3)
    corners = view.points(plain(boxes).reshape(-1, 2, 2))
    torch.testing.assert_close(
        corners.sort(dim=1).values.reshape(-1, 4)[inside], plain(view.boxes(boxes))[inside], rtol=0, atol=1e-3
    )


@given(st.integers(100, 3000), st.integers(100, 3000), seeds)
def test_crops_are_of_the_published_sizes(height, width, seed):
    rng = np.random.default_rng(seed)
    view = drawn_view(spec_of(PIIP_CROPS), (height, width), (1333, 800), torch.zeros(0, 4), rng)

    _, _, part_height, part_width = view.part
    uncut = (part_height, part_width) == (height, width)
    assert max(view.size) <= 1024
    # a short side of 480 to 800, unless the long one's limit or the last cut said less
    assert min(view.size) <= 800
    assert (
        min(view.size) in range(480, 801, 32)
        or max(view.size) == 1024
        or not uncut
        or max(height, width) / min(height, width) > 1.6
    )
    # nothing is stretched: rounding to whole pixels of the file is all
    y, x = view.scale
    assert abs(y - x) <= max(y / part_width, x / part_height) * 1.6 + 0.01


def test_both_ways_of_crops_are_taken_about_evenly():
    views = [
        drawn_view(spec_of(CropsSpec()), (480, 640), (1333, 800), torch.zeros(0, 4), np.random.default_rng([seed, 0]))
        for seed in range(400)
    ]
    whole = [view for view in views if view.whole]
    # the second way may leave an image whole: never one of 480 x 640, whose cut has at most 600 of at least 533 columns
    assert 150 <= len(whole) <= 260
    assert {min(view.size) for view in whole} == set(range(480, 801, 32))
    cut = [view.part[2:] for view in views if not view.whole]
    # 384 of 600 rows to all of them
    assert min(height for height, _ in cut) >= 480 * 384 / 600 - 1


def test_a_jittered_image_is_a_tenth_to_twice_the_square():
    spec = spec_of(JitterSpec(side=100))
    sizes = [
        drawn_view(spec, (50, 100), (1, 1), torch.zeros(0, 4), np.random.default_rng(seed)).size for seed in range(200)
    ]
    heights = [height for height, _ in sizes]
    assert min(heights) in range(5, 9)
    assert max(heights) in range(94, 101)
    assert max(max(size) for size in sizes) == 100


def test_cuts_that_must_not_be_empty_have_objects():
    spec = spec_of(CropsSpec(short=(64,), first_short=(60,), crop=(20, 30), empty_crops=False))
    boxes = boxes_of(torch.tensor([[2.0, 2.0, 9.0, 9.0]]), (60, 100))
    views = [drawn_view(spec, (60, 100), (99, 64), boxes, np.random.default_rng(seed)) for seed in range(100)]

    assert all((plain(view.boxes(boxes))[0, 2:] > plain(view.boxes(boxes))[0, :2]).all() for view in views)
    assert any(not view.whole for view in views)


@given(sides, sides, st.integers(5, 60), st.floats(0, 0.9))
def test_parts_cover_an_image_and_overlap(height, width, side, overlap):
    parts = parts_of(height, width, side, overlap)

    seen = np.zeros((height, width), dtype=int)
    for top, left, h, w in parts:
        assert (h, w) == (min(side, height), min(side, width))
        seen[top : top + h, left : left + w] += 1
    assert seen.shape == (height, width)
    assert (seen >= 1).all()
    assert len(set(parts)) == len(parts)
    if height <= side and width <= side:
        assert parts == [(0, 0, height, width)]


def test_sliced_training_sees_parts_with_objects():
    spec = spec_of(SlicesSpec(side=40))
    boxes = boxes_of(torch.tensor([[150.0, 150.0, 160.0, 160.0]]), (200, 200))
    parts = {drawn_view(spec, (200, 200), (80, 80), boxes, np.random.default_rng(seed)).part for seed in range(30)}
    assert parts == {(128, 128, 40, 40)}  # the last one begins at 160, where the object ends


@given(sides, sides, seeds)
@settings(max_examples=15)
def test_a_mosaic_has_the_objects_where_their_pixels_are(height, width, seed):
    rng = np.random.default_rng(seed)
    side, pictures = 96, []
    point = meeting_point(side, rng)
    for cell in cells_of(side, point):
        image, boxes, labels, cuts = scene(height, width, rng, count=1)
        view = cell_view((height, width), side, cell, rng, flip=0.5)
        assert all(a <= b for a, b in zip(view.size, cell, strict=True))
        pictures.append(Picture.of(view, image, boxes, labels, cuts))

    whole = mosaic(pictures, side, point, (0.0, 0.0, 0.0))

    assert whole.size == (side, side)
    assert len(whole.labels) == sum(len(picture.labels) for picture in pictures)
    check_pixels_and_objects_agree(whole)


@given(seeds)
@settings(max_examples=15)
def test_pasted_objects_hide_what_is_beneath(seed):
    rng = np.random.default_rng(seed)
    image, boxes, labels, cuts = scene(60, 80, rng)
    onto = Picture.of(View.of_all((60, 80), (60, 80)), image // 2, boxes, labels, cuts)
    image, boxes, labels, cuts = scene(70, 50, rng)
    other = Picture.of(View.of_all((70, 50), (70, 50)), image, boxes, labels + 10, cuts)
    chosen = torch.tensor([True, False, True])

    both = pasted(onto, other, chosen)

    masks, before = masks_of(both), masks_of(onto)
    theirs = array_of(other.runs, torch.tensor([0, 2]), (70, 50))[:, :60].any(dim=0)
    hidden = torch.nn.functional.pad(theirs, (0, 30))
    assert torch.equal(masks[both.labels > 10].any(dim=0), hidden)
    for number, mask in zip(both.labels.tolist(), masks, strict=True):
        if number <= 10:
            assert torch.equal(mask, before[number - 1] & ~hidden)
    assert (both.image[0][hidden] == 255).all()
    assert torch.equal(both.image[0][~hidden], onto.image[0][~hidden])
    for box, mask in zip(both.boxes.tolist(), masks, strict=True):
        rows, columns = mask.nonzero().unbind(1)
        assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    # lost: those of which nothing is left, or that lie outside
    lost = {1, 2, 3} - set(both.labels.tolist())
    assert all(not (before[number - 1] & ~hidden).any() for number in lost)
    assert pasted(onto, other, torch.zeros(3, dtype=torch.bool)).boxes.equal(onto.boxes)


def test_images_of_rare_classes_come_as_often_as_lvis_says():
    # of 8 images class 1 is in all, class 2 in one: sqrt(.5 / .125) = 2
    labels = [{1} for _ in range(7)] + [{1, 2}]
    assert repeated(labels, 0.5) == [0, 1, 2, 3, 4, 5, 6, 7, 7]
    # sqrt(.3 / .125) = 1.55
    assert repeated(labels, 0.3) == [0, 1, 2, 3, 4, 5, 6, 7, 7]
    assert repeated([*labels, set()], 0.01) == list(range(9))


@given(st.lists(st.sets(st.integers(1, 5)), min_size=1, max_size=30), st.floats(1e-3, 1))
def test_repeats_are_the_published_formula(labels, threshold):
    shares = {c: sum(c in found for found in labels) / len(labels) for c in range(1, 6)}

    order = repeated(labels, threshold)

    for index, found in enumerate(labels):
        factor = max([1.0, *((threshold / shares[c]) ** 0.5 for c in found)])
        assert factor - 1e-9 <= order.count(index) < factor + 1 + 1e-9
    assert order == sorted(order)


@pytest.fixture
def scenes(coco_folder):
    """Six images with rectangles; class 9 is in the first alone."""
    rng = np.random.default_rng(0)
    for number in range(6):
        height, width = (60, 80) if number % 2 else (80, 60)
        image = coco_folder.add_image(width, height)
        for top, left in rng.integers(0, 40, (3, 2)).tolist():
            box = (left, top, 18, 15)
            coco_folder.add_object(image, box, category=9 if number == 0 else 2)
    return coco_folder.write()


EVERYTHING = {"photometric": True, "mosaic": 0.5, "copy_paste": 0.7}


@pytest.mark.parametrize("recipe", RECIPES, ids=ids)
@pytest.mark.parametrize("masks", [True, False], ids=["masks", "boxes"])
def test_samples_are_decided_by_seed_and_index_and_whole(recipe, masks, scenes):
    wanted = grey(96, masks=masks)
    first, second = (open_dataset(spec_of(recipe, **EVERYTHING), scenes, wanted, training=True) for _ in range(2))
    second.sample(2, 9)

    for seed in range(6):
        one, other = first.sample(1, seed), second.sample(1, seed)
        assert torch.equal(one.image, other.image)
        assert set(one.target) == ({"boxes", "labels", "mask_runs"} if masks else {"boxes", "labels"})
        for name, tensor in one.target.items():
            assert torch.equal(tensor, other.target[name])
        height, width = one.image.shape[1:]
        boxes = one.target["boxes"]
        assert len(boxes) == len(one.target["labels"])
        assert (boxes >= 0).all()
        assert (boxes[:, 2:] <= torch.tensor([width, height])).all()
        batch = first.collate([one], 0)
        largest = spec_of(recipe, **EVERYTHING).largest_input(96)
        assert max(batch.images.shape[2:]) <= max(largest)
        if isinstance(recipe, JitterSpec):
            assert batch.images.shape[2:] >= (64, 64)


def test_an_epoch_has_images_of_rare_classes_more_often(scenes):
    plain_data = open_dataset(spec_of(None), scenes, grey(96), training=True)
    data = open_dataset(spec_of(None, repeat_threshold=0.5), scenes, grey(96), training=True)

    # sqrt(.5 * 6 / 1) = 1.73
    assert [info.image_id for info in data.infos].count(plain_data.infos[0].image_id) == 2
    assert len(data) == 7
    assert data.digest == plain_data.digest
    assert not torch.equal(data.sample(0, 0).image, data.sample(1, 0).image) or data.sample(0, 1).image.shape


def test_sizes_are_drawn_by_the_recipe_or_by_the_spec_not_by_both():
    with pytest.raises(ValueError, match="recipe 'jitter' draws sizes itself, train_scales"):
        spec_of(JitterSpec(), train_scales=(0.5, 1.0))


@pytest.mark.parametrize(
    ("recipe", "size"),
    [
        (ScalesSpec(), (800, 1344)),
        (PIIP_CROPS, (1024, 1024)),
        (PIIP_CROPS.times(1.75), (1792, 1792)),
        (CropsSpec(), (1344, 1344)),
        (JitterSpec(side=1024), (1024, 1024)),
        (SlicesSpec(), (1024, 1024)),
        (None, (1024, 1024)),
    ],
)
def test_the_largest_input_is_the_recipes(recipe, size):
    assert spec_of(recipe).largest_input(1024) == size


def test_a_colour_change_moves_nothing(scenes):
    one, other = (
        open_dataset(spec_of(None, photometric=flag), scenes, grey(96), training=True).sample(0, 0)
        for flag in (True, False)
    )
    assert not torch.equal(one.image, other.image)
    assert torch.equal(one.target["boxes"], other.target["boxes"])


def test_runs_are_moved_with_their_picture():
    mask = torch.zeros(1, 8, 9, dtype=torch.uint8)
    mask[0, 2:4, 3:7] = 1
    picture = Picture(
        torch.zeros(3, 8, 9, dtype=torch.uint8), torch.tensor([[3.0, 2, 7, 4]]), torch.ones(1), runs_of(mask)
    )

    moved = picture.at(10, 20)

    assert moved.boxes.tolist() == [[23, 12, 27, 14]]
    assert array_of(moved.runs, torch.arange(1), (18, 29))[0, 12:14, 23:27].all()


@pytest.mark.parametrize("recipe", RECIPES, ids=ids)
@pytest.mark.parametrize("resolution", [64, 8])
def test_objects_that_a_draw_leaves_out_are_counted(recipe, resolution, tiny_coco):
    """Of the tiny data: 4 objects that are learned."""
    split = open_dataset(spec_of(recipe), tiny_coco, grey(resolution, masks=False), training=True)

    lost = cut_away(split)

    learned = sum(len(split.sample(index, 0).target["labels"]) for index in range(len(split)))
    assert (lost.images, lost.objects) == (4, 4)
    assert lost.cut + lost.small == 4 - learned
    assert lost.cut == 0 or recipe is not None
    assert f"{lost.cut} cut away, {lost.small} under a pixel" in lost.words
