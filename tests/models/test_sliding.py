import pytest
import torch
from torch import nn

from piip.models.network import Network
from piip.models.sliding import Window, slide, starts
from piip.spec import UPerNetSpec


@pytest.mark.parametrize(
    ("length", "expected"),
    [(512, [0]), (513, [0, 1]), (683, [0, 171]), (853, [0, 341]), (854, [0, 341, 342]), (1200, [0, 341, 682, 688])],
)
def test_crops_are_a_stride_apart_and_the_last_ends_with_the_image(length, expected):
    assert starts(length, Window(512, 341)) == expected


@pytest.mark.parametrize("size", [(8, 8), (8, 21), (19, 13), (5, 30), (3, 4)])
def test_what_looks_at_single_pixels_does_not_notice_the_crops(size):
    image, seen = torch.randn(3, *size), []

    def pixelwise(crop):
        seen.append(crop.shape)
        return torch.stack([crop[0].sum(0), crop[0].prod(0)])

    logits = slide(pixelwise, image, Window(8, 5))

    assert set(seen) == {(1, 3, 8, 8)}
    torch.testing.assert_close(logits, torch.stack([image.sum(0), image.prod(0)]))


def test_where_crops_overlap_logits_are_averaged():
    calls = iter(range(10))

    logits = slide(lambda crop: torch.full((1, 4, 4), float(next(calls))), torch.zeros(3, 4, 6), Window(4, 2))

    # crops at 0 (says 0) and at 2 (says 1); columns 2 and 3 are in both
    assert logits[0, 0].tolist() == [0, 0, 0.5, 0.5, 1, 1]


class Sides(nn.Module):
    """A head that says how large its input was; the backbone hands it on."""

    def forward(self, features, sizes, targets=None):
        return {"loss": features.sum()} if targets else [{"logits": features[0, :1]} for _ in sizes]


def test_a_network_slides_over_every_images_content_in_evaluation_only():
    network = Network(nn.Identity(), Sides(), Window(4, 3))
    images = torch.arange(2 * 3 * 8 * 8.0).view(2, 3, 8, 8)

    assert set(network(images, None, [{}, {}])) == {"loss"}
    found = network.eval()(images, [(8, 6), (4, 8)])

    assert [p["logits"].shape for p in found] == [(1, 8, 6), (1, 4, 8)]
    torch.testing.assert_close(found[0]["logits"], images[0, :1, :, :6])


def test_a_crop_is_the_training_resolution_and_a_stride_two_thirds_of_it():
    assert UPerNetSpec().window(512) == (512, 341)  # as published
    assert UPerNetSpec(crop=128, stride=100).window(512) == (128, 100)
    assert UPerNetSpec(inference="whole").window(512) is None


def test_a_stride_that_leaves_gaps_is_refused():
    with pytest.raises(ValueError, match="stride 65 leaves pixels between crops of 64 that no crop sees"):
        UPerNetSpec(crop=64, stride=65)
