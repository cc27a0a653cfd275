"""Masks of objects at the network's size, against torchvision's resizing of masks of the whole image."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from piip.data.runs import Cut, cut_out
from piip.data.transforms.cuts import resized
from piip.ops.mask_runs import array_of

sides = st.integers(2, 90)


def by_torchvision(masks, size):
    """(n, H, W) of 0 and 1, whole."""
    coverage = F.resize(tv_tensors.Image(masks * 255), list(size), InterpolationMode.BILINEAR, antialias=True)
    return (coverage >= 128).to(torch.uint8).as_subclass(torch.Tensor)


def resized_masks(cuts, before, after):
    """(n, *after)."""
    return array_of(resized(cuts, before, after), torch.arange(len(cuts)), after).to(torch.uint8)


def cuts_of(masks):
    return [Cut(mask.numpy(), 0, 0) for mask in masks]


@given(sides, sides, sides, sides, st.integers(0, 2**32), st.integers(1, 4))
@settings(max_examples=100)
def test_a_cut_resized_is_the_whole_resized(height, width, height_after, width_after, seed, count):
    rng = np.random.default_rng(seed)
    masks, cuts = np.zeros((count, height, width), dtype=np.uint8), []
    for mask in masks:
        top, bottom = sorted(rng.choice(height + 1, 2, replace=False))
        left, right = sorted(rng.choice(width + 1, 2, replace=False))
        mask[top:bottom, left:right] = rng.random((bottom - top, right - left)) < 0.7
        cuts.append(Cut(mask[top:bottom, left:right], int(top), int(left)))

    ours = resized_masks(cuts, (height, width), (height_after, width_after))

    assert torch.equal(ours, by_torchvision(torch.from_numpy(masks), (height_after, width_after)))


def test_sides_that_stay_are_not_touched():
    masks = torch.from_numpy((np.random.default_rng(0).random((3, 20, 30)) < 0.5).astype(np.uint8))

    for size in ((20, 30), (20, 11), (7, 30)):
        assert torch.equal(resized_masks(cuts_of(masks), (20, 30), size), by_torchvision(masks, size))


def test_a_pixel_of_which_an_object_covers_one_half_belongs_to_it():
    mask = torch.tensor([[[1, 0, 0, 0, 1, 1]]], dtype=torch.uint8)

    assert resized_masks(cuts_of(mask[..., :2]), (1, 2), (1, 1)).tolist() == [[[1]]]
    assert resized_masks(cuts_of(mask[..., 1:4]), (1, 3), (1, 1)).tolist() == [[[0]]]


def test_masks_are_cut_at_half_a_pixel():
    mask = torch.zeros(1, 1, 12, dtype=torch.uint8)
    mask[..., :6] = 1

    assert resized_masks(cuts_of(mask), (1, 12), (1, 4)).tolist() == [[[1, 1, 0, 0]]]
    assert resized_masks(cuts_of(mask), (1, 12), (1, 24)).sum() == 12


def test_a_mask_without_a_pixel_stays_one():
    nothing = cut_out({"size": [6, 8], "counts": [48]}, 6, 8)

    assert resized_masks([nothing], (6, 8), (3, 4)).tolist() == [[[0] * 4] * 3]


def test_a_thousand_objects_at_the_networks_size_are_less_than_a_megabyte():
    # each 50 of 4000 px, 14 or 15 rows of 1120: 15 runs of 16 bytes
    cuts = [Cut(np.ones((50, 50), dtype=np.uint8), 3 * k, 3 * k) for k in range(1000)]

    runs = resized(cuts, (4000, 4000), (1120, 1120))

    assert runs.untyped_storage().nbytes() <= 1000 * 15 * 16


LARGE = """
import json, resource, sys
from pathlib import Path
import numpy as np
from PIL import Image
from piip.contracts import Input
from piip.data import open_dataset
from piip.data.images import read_image
from piip.data.sources import Source
from piip.spec import CocoSpec

folder, side, count = Path(sys.argv[1]), 4000, 1000
Image.new("RGB", (side, side), (90, 90, 90)).save(folder / "a.png")
rng, objects = np.random.default_rng(0), []
for k in range(1, count + 1):
    x, y = (int(v) for v in rng.integers(0, side - 60, 2))
    objects.append({"id": k, "image_id": 1, "category_id": 1, "bbox": [x, y, 50, 50],
                    "segmentation": [[x, y, x + 50, y, x + 50, y + 50, x, y + 50]]})
image = {"id": 1, "file_name": "a.png", "width": side, "height": side}
(folder / "a.json").write_text(json.dumps({"images": [image], "annotations": objects, "categories": [{"id": 1, "name": "cell"}]}))
wanted = Input(1120, (0.0,) * 3, (1.0,) * 3)
spec = CocoSpec(name="custom", pad_multiple=32)
data = open_dataset(spec, Source(folder / "a.json", folder), wanted, training=True)
open_dataset(spec, Source(folder / "a.json", folder), Input(1120, (0.0,) * 3, (1.0,) * 3, False), training=True).sample(0, 0)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
sample = data.sample(0, 0)
print(len(sample.target["mask_runs"][:, 0].unique()), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_a_thousand_objects_of_a_large_image_take_100_mb_beyond_their_image(tmp_path):
    done = subprocess.run([sys.executable, "-c", LARGE, tmp_path], capture_output=True, text=True, check=True)

    objects, kilobytes = map(int, done.stdout.split())
    assert objects == 1000
    assert kilobytes <= 100_000
