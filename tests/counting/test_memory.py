"""The prediction against what a real step allocates, and its shares by hand."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from piip.counting.memory import ZERO_BUCKET, training_memory
from piip.models import build_model
from piip.ops.mask_runs import runs_of
from piip.presets import PICO, PICO_HEAD, mask_rcnn_1x, piip
from piip.spec import InteractionSpec, ModelSpec, MPViTSpec, TrainSpec

HEIGHT, SIDE = 64, 128
# so few boxes that a step on three objects finds as many as it may
HEAD = PICO_HEAD.override({"box_samples": 16, "rpn_post_nms": 50})
FEW = InteractionSpec(count=1, num_heads=4)
TINY = ModelSpec(backbone=piip("TB", (SIDE, 64), branches=PICO, interaction=FEW), head=HEAD)
MPVIT = MPViTSpec(resolution=SIDE, channels=(32, 48, 64, 80), paths=(2, 1, 1, 1), depths=(1, 1, 1, 1))
TRAIN = TrainSpec(batch_size=2, engine="deepspeed")


def allocated_gb(spec: ModelSpec) -> float:
    """The most a training step has allocated at once, by PyTorch's own account; weights and optimizer come on top."""
    torch.manual_seed(0)
    model = build_model(spec, pretrained=False).train()
    boxes = torch.tensor([[8.0, 8, 40, 40], [30, 10, 120, 60], [60, 5, 90, 35]])
    runs = runs_of(torch.ones(3, HEIGHT, SIDE))
    targets = [{"boxes": boxes, "labels": torch.tensor([1, 2, 3]), "mask_runs": runs}] * 2

    def step() -> None:
        losses = model(torch.randn(2, 3, HEIGHT, SIDE), [(HEIGHT, SIDE)] * 2, targets)
        sum(losses.values()).backward()
        model.zero_grad()

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak / 1e9


@pytest.mark.parametrize("backbone", [TINY.backbone, MPVIT], ids=lambda backbone: backbone.kind)
def test_a_real_step_takes_what_was_predicted(backbone, monkeypatch):
    monkeypatch.setenv("PIIP_KERNEL", "auto")
    model = ModelSpec(backbone=backbone, head=HEAD)

    predicted = training_memory(model, TRAIN, HEIGHT, SIDE)

    # gradients are part of both; the prediction has all RoIs, a step as many as it finds
    counted = predicted.peak_gb - predicted.weights_gb - predicted.optimizer_gb
    assert counted == pytest.approx(allocated_gb(model), rel=0.12)


def test_weights_gradients_and_moments_by_hand():
    parameters = sum(p.numel() for p in build_model(TINY, pretrained=False).parameters())
    gb = 4 * parameters / 1e9

    alone, sharded, everything = (
        training_memory(
            TINY, TrainSpec(batch_size=8, micro_batch=2, engine="deepspeed", zero_stage=stage), 64, 128, workers=4
        )
        for stage in (0, 2, 3)
    )

    assert (alone.weights_gb, alone.gradients_gb, alone.optimizer_gb) == pytest.approx((gb, gb, 2 * gb))
    # two moments and ZeRO's copy of the weights, each cut in four
    assert (sharded.weights_gb, sharded.gradients_gb, sharded.optimizer_gb) == pytest.approx((gb, gb / 4, 3 * gb / 4))
    # our engine evaluates with a whole copy
    assert everything.weights_gb == pytest.approx(gb / 4 + gb)
    assert sharded.buffers_gb == ZERO_BUCKET / 1e9
    assert alone.activations_gb == sharded.activations_gb == everything.activations_gb
    for memory in (alone, sharded, everything):
        sum_of_parts = (
            memory.weights_gb + memory.gradients_gb + memory.optimizer_gb + memory.activations_gb + memory.buffers_gb
        )
        assert memory.weights_gb + memory.optimizer_gb + memory.buffers_gb < memory.peak_gb <= sum_of_parts


@pytest.mark.slow
def test_activations_follow_the_micro_batch():
    one, two, accumulated = (
        training_memory(TINY, train, HEIGHT, SIDE)
        for train in (TrainSpec(batch_size=1), TrainSpec(batch_size=2), TrainSpec(batch_size=2, micro_batch=1))
    )

    assert 1.6 * one.activations_gb < two.activations_gb <= 2 * one.activations_gb
    assert accumulated.activations_gb == one.activations_gb
    # the first micro batch's gradients are there while the second one's activations are
    parts = (accumulated.weights_gb, accumulated.gradients_gb, accumulated.optimizer_gb, accumulated.activations_gb)
    assert accumulated.peak_gb == pytest.approx(sum(parts))
    assert one.peak_gb < accumulated.peak_gb


@pytest.mark.slow
def test_bf16_and_checkpointing_save_memory():
    leaner = TINY.override({f"backbone.branches.{i}.checkpointing": True for i in range(2)})

    plain, half, recomputed = (
        training_memory(model, TrainSpec(batch_size=2, precision=precision), HEIGHT, SIDE).activations_gb
        for model, precision in ((TINY, "fp32"), (TINY, "bf16"), (leaner, "fp32"))
    )

    assert half < 0.95 * plain
    assert recomputed < 0.95 * plain


@pytest.mark.long
def test_networks_of_any_size_are_predicted_without_memory():
    row = mask_rcnn_1x(piip("TSB", (1120, 896, 448)))

    memory = training_memory(row.model, row.train, 672, 1120, workers=8)

    # 195.7 M parameters, ZeRO 1: weights and gradients whole, three eighths of copies
    assert memory.weights_gb == pytest.approx(0.783, abs=1e-3)
    assert memory.optimizer_gb == pytest.approx(0.783 * 3 / 8, abs=1e-3)
    assert 4 < memory.activations_gb < 8
