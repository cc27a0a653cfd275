"""Counts against arithmetic by hand and against the official counter's printed parameters."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from piip.counting.cost import _head_parts, cost
from piip.counting.memory import training_memory
from piip.models import build_model, speed
from piip.presets import PICO, PICO_HEAD, mask_rcnn_1x, mask_rcnn_pico, pico, piip
from piip.spec import CNNSpec, InteractionSpec, ModelSpec, SpeedSpec

PICO_TB = ModelSpec(
    backbone=piip("TB", (96, 64), branches=PICO, interaction=InteractionSpec(count=2, num_heads=4)), head=PICO_HEAD
)


def test_vit_b_blocks_by_hand():
    # 64 x 64 patches of 16 pixels, windows of 14: padded to 70 x 70
    spec = mask_rcnn_1x(piip("B", (1024,))).model
    tokens, padded, width = 64 * 64, 70 * 70, 768
    patches = tokens * 3 * 16 * 16 * width
    projections = padded * 4 * width * width  # qkv and proj inside the windows
    attention = 2 * padded * (14 * 14) * width  # q @ k and weights @ v
    mlp = tokens * 8 * width * width
    by_hand = patches + 12 * (projections + attention + mlp)

    counted = cost(spec, 1024, 1024)

    assert counted.parts["branches.0"][0] == pytest.approx(by_hand / 1e9, rel=1e-6)


def test_global_attention_is_counted():
    spec = mask_rcnn_1x(piip("T", (224,))).model.override({"backbone.branches.0.window": None})
    tokens, width = 14 * 14, 192
    by_hand = tokens * 768 * width + 12 * (12 * tokens * width**2 + 2 * tokens**2 * width)

    assert cost(spec, 224, 224).parts["branches.0"][0] == pytest.approx(by_hand / 1e9, rel=1e-6)


def test_interactions_by_hand():
    # 12 x 8 patches of 64 channels above 8 x 5 of 128 (96 x 64 pixels, scaled by 64/96: 64 x 42); 2 interactions
    high, low = (12 * 8, 64), (8 * 5, 128)

    def injector(queries: int, keys: int, width: int) -> int:
        value = width // 2
        points = 4 * 4
        linears = queries * width * points * 3 + keys * width * value + queries * value * width
        sampling = 5 * queries * 4 * value
        hidden = width // 4
        return linears + sampling + queries * (2 * width * hidden + 9 * hidden)

    projections = (high[0] + low[0]) * high[1] * low[1]
    unit = projections + injector(high[0], low[0], high[1]) + injector(low[0], high[0], low[1])

    assert cost(PICO_TB, 96, 64).parts["interactions"][0] == pytest.approx(2 * unit / 1e9, rel=1e-6)


@pytest.mark.parametrize("backbone", [PICO_TB.backbone, CNNSpec(arch="resnet18", resolution=96)], ids=["piip", "cnn"])
def test_parameters_are_those_of_the_real_model(backbone):
    spec = ModelSpec(backbone=backbone, head=PICO_HEAD)

    counted = cost(spec, 96, 64)

    real = sum(p.numel() for p in build_model(spec, pretrained=False).parameters())
    assert counted.params_m == pytest.approx(real / 1e6)
    assert sum(params for _, params in counted.parts.values()) == pytest.approx(counted.params_m)
    assert sum(gflops for gflops, _ in counted.parts.values()) == pytest.approx(counted.gflops)


def test_the_real_tsb_backbone_costs_what_the_official_detection_counter_says():
    # official tools/get_flops_det on the detection backbone: 572 G, up to the stride-16 map, norms counted too
    counted = cost(mask_rcnn_1x(piip("TSB", (1568, 1120, 672))).model, 1568, 1568)
    cells, width = 98 * 98, 768
    upsampling = cells * 4 * width**2 + 4 * cells * 4 * width**2 + cells * 4 * width**2

    assert counted.backbone_gflops - upsampling / 1e9 == pytest.approx(572, rel=0.01)
    assert sum(
        counted.parts[name][1] for name in counted.parts if name not in ("neck", "rpn", "roi_heads")
    ) == pytest.approx(175.04, abs=0.01)


def test_a_probe_whose_parts_are_no_submodules_is_told_so():
    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(2, 2), nn.Linear(2, 2)

        def probe(self, features):
            return {"one": lambda: [self.one(features)], "to": lambda: [self.two(features)]}

    with pytest.raises(AssertionError, match=r"Head.probe names \['to'\], which are no submodules: \['one', 'two'\]"):
        _head_parts(Head(), torch.ones(1, 2))


def test_a_head_of_one_part_counts_as_a_whole_whatever_the_part_is_called():
    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.head = nn.LayerNorm(2), nn.Linear(2, 3)

        def probe(self, features):
            return {"head": lambda: [self.head(self.norm(features))]}

    # 2 x 3 products; 2 + 2 of the norm, 6 + 3 of the layer
    assert _head_parts(Head(), torch.ones(1, 2)) == {"head": (6 / 1e9, 13 / 1e6)}


class Held(TorchDispatchMode):
    """Bytes of all values that operators make under it; tensors on meta have none."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.bytes += sum(t.nbytes for t in tree_leaves(out) if isinstance(t, torch.Tensor) and not t.is_meta)
        return out


def test_counting_takes_no_memory():
    with Held() as held:
        counted = cost(PICO_TB, 96, 64)
    with Held() as real:
        build_model(PICO_TB, pretrained=False)

    # a few numbers, such as rates of stochastic depth; the weights alone are 4 bytes each
    assert held.bytes < 0.001 * counted.params_m * 1e6 * 4
    assert real.bytes > counted.params_m * 1e6 * 4
    assert nn.Linear(1, 1).weight.device.type == "cpu"


def test_counting_changes_nothing_of_the_process(monkeypatch):
    row = mask_rcnn_pico(pico("TB", (96, 64), pretrained=False), steps=3)
    changed = []
    monkeypatch.setattr(speed, "keep_freed_memory", lambda wanted: changed.append("memory"))
    monkeypatch.setattr(speed, "_use_flash_attention_4", lambda wanted: changed.append("attention"))
    before = torch.get_rng_state(), torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled()

    cost(row.model, 64, 96)
    training_memory(row.model, row.train, 64, 96)

    after = torch.get_rng_state(), torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled()
    assert changed == []
    assert torch.equal(after[0], before[0])
    assert after[1:] == before[1:]
    with torch.device("meta"):
        speed.set_speed(torch.nn.Linear(1, 1), SpeedSpec())  # which does change it
    assert changed == ["memory", "attention"]
