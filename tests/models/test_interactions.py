"""How an interaction begins, and what its attentions compute; test_official.py has them against the official code's numbers."""

import math

import pytest
import torch
from torch import nn

from piip.models.meeting.interaction import DenseCrossAttention, InteractionUnit
from piip.spec import InteractionSpec


def test_a_unit_begins_as_published():
    torch.manual_seed(0)
    unit = InteractionUnit(64, 96, InteractionSpec(num_heads=4, ffn_ratio=1.0))

    for name, module in unit.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and "sampling_offsets" not in name:
            assert not module.bias.any(), name
        if name.endswith(("sampling_offsets", "attention_weights")):
            assert not module.weight.any(), name
        elif name.endswith(("value_proj", "output_proj")):  # Glorot's uniform rule
            bound = math.sqrt(6 / (module.in_features + module.out_features))
            assert 0.95 * bound < module.weight.abs().max() <= bound, name
        elif isinstance(module, nn.Linear):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.1), name
        elif isinstance(module, nn.Conv2d):  # He's rule: nine weights reach each value
            assert module.weight.std().item() == pytest.approx(math.sqrt(2 / 9), rel=0.15), name


def test_the_ffn_is_dropped_for_whole_images_in_training():
    unit = InteractionUnit(32, 32, InteractionSpec(num_heads=4, drop_path=0.5))
    nn.init.ones_(unit.to_high.cffn_gamma)
    tokens = torch.randn(64, 6, 32)

    def kept(training):
        changed = unit.train(training)(tokens, tokens, (2, 3), (2, 3))[0] != tokens
        return [image.float().mean().item() for image in changed]

    assert all(share > 0.9 for share in kept(False))
    shares = kept(True)
    assert all(share == 0 or share > 0.9 for share in shares)
    assert 16 < sum(share == 0 for share in shares) < 48


def test_dense_attention_is_the_softmax_over_the_neighbours_whole_map():
    attention = DenseCrossAttention(8, 6, InteractionSpec(num_heads=2, attention="dense"))
    query, feature = torch.randn(1, 3, 8), torch.randn(1, 5, 6)

    out = attention(query, feature, (3, 1), (5, 1))

    heads = []
    for rows in (slice(0, 4), slice(4, 8)):
        q, k, v = (
            x @ layer.weight[rows].T
            for x, layer in ((query, attention.wq), (feature, attention.wk), (feature, attention.wv))
        )
        heads.append((q @ k.transpose(1, 2) / 2).softmax(dim=-1) @ v)  # 2 = sqrt of 4 channels a head
    torch.testing.assert_close(out, attention.proj(torch.cat(heads, dim=-1)))


def test_dense_heads_that_do_not_divide_the_channels_are_refused():
    with pytest.raises(
        ValueError, match=r"num_heads 5 does not divide 12 channels\. Heads that fit: \[1, 2, 3, 4, 6, 12\]"
    ):
        DenseCrossAttention(12, 12, InteractionSpec(num_heads=5, attention="dense"))
