"""Masks as runs along rows, against arrays."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from piip.ops import mask_runs
from piip.ops.mask_runs import array_of, arrays_of, flipped, have_pixels, kept, runs_of

sides = st.integers(1, 12)


@st.composite
def arrays(draw):
    """(n, h, w) of 0 and 1, some of them empty or full."""
    count, size = draw(st.integers(0, 6)), (draw(sides), draw(sides))
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    shares = torch.tensor([draw(st.sampled_from([0.0, 0.3, 0.7, 1.0])) for _ in range(count)])
    return (torch.rand(count, *size, generator=rng) < shares[:, None, None]).to(torch.int8)


def back(runs, count, size):
    return array_of(runs, torch.arange(count), size)


@given(arrays())
def test_runs_are_the_array_they_were_made_of(masks):
    count, *size = masks.shape

    assert torch.equal(back(runs_of(masks), count, size), masks)


@given(arrays())
def test_runs_turned_and_picked_are_the_array_turned_and_picked(masks):
    count, *size = masks.shape
    keep = torch.arange(count) % 2 == 1

    assert torch.equal(back(flipped(runs_of(masks), size[1]), count, size), masks.flip(2))
    assert torch.equal(back(kept(runs_of(masks), keep), int(keep.sum()), size), masks[keep])
    assert torch.equal(have_pixels(runs_of(masks), count), masks.flatten(1).any(1))


@given(arrays())
def test_some_objects_at_a_time_are_those_objects(masks):
    objects = torch.arange(0, len(masks), 2)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mask_runs, "PIXELS_AT_ONCE", 2 * masks[0].numel() if len(masks) else 1)
        parts = list(arrays_of(runs_of(masks), objects, masks.shape[1:]))

    assert all(len(some) <= 2 for some, _ in parts)
    assert torch.equal(torch.cat([some for some, _ in parts]), objects)
    assert torch.equal(torch.cat([part for _, part in parts]), masks[objects])


def test_a_run_is_an_object_a_row_and_two_columns():
    masks = torch.tensor([[[0, 0, 0], [0, 0, 0]], [[1, 1, 0], [0, 1, 1]]])

    assert runs_of(masks).tolist() == [[1, 0, 0, 2], [1, 1, 1, 3]]
