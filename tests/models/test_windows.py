"""Windows without padded work give what padded windows give: outputs and every gradient."""

from functools import partial
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from timm.layers import Attention
from timm.models import beit
from torch import nn

from piip.models.branches import windows
from piip.models.branches.attention import BiasedAttention, FullNormAttention, windowed, windowed_after_qkv
from piip.models.branches.internvit import RMS_NORM
from piip.models.branches.windows import window_attention, windowed_exact

GRIDS = [(8, 8), (7, 9), (9, 8), (8, 7), (3, 2), (3, 10), (1, 1), (4, 4)]


def plain() -> nn.Module:
    return Attention(32, num_heads=4, qkv_bias=True)


def head_norms() -> nn.Module:
    return Attention(32, num_heads=4, qkv_bias=True, qk_norm=True, norm_layer=nn.LayerNorm)


def full_norms() -> nn.Module:
    return FullNormAttention(32, num_heads=4, norm_layer=RMS_NORM)


def relative_positions() -> nn.Module:
    return BiasedAttention(beit.Attention(32, num_heads=4, qkv_bias=True, window_size=(4, 4)), 4)


KINDS = [plain, head_norms, full_norms, relative_positions]


def one_by_one(query, key, value, begins, key_begins, longest, key_longest):
    """What PyTorch's varlen_attn, which runs on CUDA only, says it does: sequence after sequence."""
    places = [list(pairwise(b.tolist())) for b in (begins, key_begins)]
    assert [max(end - begin for begin, end in p) for p in places] == [longest, key_longest]
    pieces = [
        F.scaled_dot_product_attention(*(t[a:b].transpose(0, 1) for t, (a, b) in ((query, q), (key, k), (value, k))))
        for q, k in zip(*places, strict=True)
    ]
    return torch.cat(pieces, dim=1).transpose(0, 1)


def random(attention: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for parameter in attention.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * (0.5 if parameter.ndim == 1 else 0.3)
    return attention.double()


def outcome(attention, path, grid, padding):
    tokens = torch.randn(2, grid[0] * grid[1], 32, generator=torch.Generator().manual_seed(1)).double().requires_grad_()
    pad = {} if path in (windowed, windowed_after_qkv) else {"padding": padding}
    out = path(attention, tokens, grid, 4, **pad)
    weigh = torch.randn(out.shape, generator=torch.Generator().manual_seed(2)).double()
    given = [tokens, *attention.parameters()]
    gradients = torch.autograd.grad((out * weigh).sum(), given, allow_unused=True)
    return [out, *(torch.zeros_like(t) if g is None else g for t, g in zip(given, gradients, strict=True))]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("kind", KINDS)
def test_exact_windows_are_windows_padded_before_qkv(kind, grid):
    attention = random(kind())

    exact = outcome(attention, windowed_exact, grid, "before_qkv")

    torch.testing.assert_close(exact, outcome(attention, windowed, grid, "before_qkv"))


@pytest.mark.parametrize("grid", GRIDS)
def test_exact_windows_are_windows_padded_after_qkv(grid):
    attention = random(plain())

    exact = outcome(attention, windowed_exact, grid, "after_qkv")

    torch.testing.assert_close(exact, outcome(attention, windowed_after_qkv, grid, "after_qkv"))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("kind", KINDS)
def test_windows_of_all_shapes_in_one_call_are_padded_windows(monkeypatch, kind, grid):
    attention, calls = random(kind()), []
    monkeypatch.setattr(windows, "HALF", (torch.float64,))
    monkeypatch.setattr(windows.varlen, "varlen_attn", lambda *given: calls.append(1) or one_by_one(*given))

    together = outcome(attention, partial(windowed_exact, together=True), grid, "before_qkv")

    torch.testing.assert_close(together, outcome(attention, windowed, grid, "before_qkv"))
    assert len(calls) == (kind is not relative_positions)


def test_bf16_windows_are_as_close_to_fp32_as_padded_ones():
    attention = random(plain()).float()
    tokens = torch.randn(2, 63, 32, generator=torch.Generator().manual_seed(1))
    errors = []
    for exact in (True, False):
        run = window_attention(exact=exact, padding="before_qkv")
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            low = run(attention, tokens, (7, 9), 4)
        with torch.no_grad():
            errors.append((low - run(attention, tokens, (7, 9), 4)).abs().mean().item())

    assert errors[0] <= 1.05 * errors[1]


@pytest.mark.parametrize("grid", [(7, 9), (8, 7), (7, 8)])
def test_no_padded_token_is_computed(grid):
    attention, seen = random(plain()), []
    attention.qkv.register_forward_hook(lambda _, given, __: seen.append(given[0].shape[:-1].numel()))

    tokens = torch.zeros(2, grid[0] * grid[1], 32).double()
    window_attention(exact=True, padding="before_qkv")(attention, tokens, grid, 4)

    assert seen == [2 * grid[0] * grid[1]]


@pytest.mark.parametrize("drops", [{"attn_drop": 0.1}, {"proj_drop": 0.1}])
def test_attention_that_drops_is_left_to_itself(drops):
    attention = Attention(32, num_heads=4, qkv_bias=True, **drops)

    assert windows.is_known(plain())
    assert not windows.is_known(attention)
    with pytest.raises(TypeError, match="no exact windows for Attention"):
        windowed_exact(attention, torch.zeros(1, 63, 32), (7, 9), 4)


def test_weights_that_zero_3_has_sharded_are_left_to_the_layers_own_calls():
    attention, called = random(plain()), []
    attention.qkv.weight.ds_status = "not available"
    attention.register_forward_hook(lambda *_: called.append(True))

    window_attention(exact=True, padding="before_qkv")(attention, torch.zeros(1, 63, 32).double(), (7, 9), 4)

    assert called
