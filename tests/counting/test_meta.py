"""Networks without values are the networks, and nothing else changes while they are built."""

from functools import partial

import torch
from torch.utils.flop_counter import FlopCounterMode

from piip.counting.meta import on_meta
from piip.models import build_backbone, build_model
from piip.presets import BEITV2, DINOV2, INTERNVIT, piip
from piip.spec import ModelSpec


def shapes(model: torch.nn.Module) -> dict:
    return {name: (value.shape, value.dtype, value.device.type) for name, value in model.state_dict().items()}


def test_a_network_built_on_meta_is_the_network():
    families = {"S": DINOV2["S"], "V": INTERNVIT["H"], "E": BEITV2["B"]}
    for letters, sides in (("SV", (64, 32)), ("SE", (64, 32))):
        spec = ModelSpec(backbone=piip(letters, sides, branches=families))

        with on_meta():
            ours = build_model(spec, pretrained=False)
        with torch.device("meta"):
            plain = build_model(spec, pretrained=False)

        assert shapes(ours) == shapes(plain)


def test_a_tensor_with_values_is_initialised_as_ever():
    with on_meta():
        nothing = torch.nn.init.trunc_normal_(torch.empty(3))
        real = torch.nn.init.constant_(torch.zeros(3, device="cpu"), 2.0).mul_(3)

    assert nothing.is_meta
    assert real.tolist() == [6, 6, 6]


def test_a_network_counted_on_meta_costs_what_it_costs():
    spec = piip("TSB", (128, 96, 64))
    counts, maps = [], []
    for place in (on_meta, partial(torch.device, "meta")):
        with place(), FlopCounterMode(display=False) as counter:
            network = build_backbone(spec, pretrained=False).requires_grad_(False)
            maps.append([map_.shape for map_ in network(torch.empty(1, 3, 128, 96))])
        counts.append(counter.get_flop_counts())

    assert maps[0] == maps[1]
    assert counts[0] == counts[1]
