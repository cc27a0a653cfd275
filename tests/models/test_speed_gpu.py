"""What SpeedSpec asks of a GPU gives what its plain form gives: `pytest -m gpu tests/models`."""

import pytest
import torch
from test_speed import PLAIN, network

from piip.models.speed import active_attention, set_speed
from piip.spec import OptimSpec
from piip.training.optim import build_optimizer

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]

CUDA = torch.device("cuda")


@pytest.fixture(autouse=True)
def fp32_convolutions(monkeypatch):
    """By default cuDNN takes TF32, of 10 bits, for fp32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def outcome(changes, *, bf16=True):
    """Maps and gradients of the small network, three steps in: what is compiled or captured on the way is in use by then."""
    model = network().cuda()
    set_speed(model, PLAIN.override({"attention": "sdpa"} | changes), precision="bf16" if bf16 else "fp32")
    images = torch.randn(1, 3, 160, 96, generator=torch.Generator().manual_seed(1)).cuda()
    for _ in range(3):
        model.zero_grad()
        with torch.autocast("cuda", torch.bfloat16, enabled=bf16):
            maps = model(images)
        sum((m.float() ** 2).mean() for m in maps).backward()
    set_speed(model, PLAIN.override({"attention": "sdpa"}))
    return [m.detach().float().clone() for m in maps], [p.grad.clone() for p in model.parameters()]


def distance(some, others):
    """Of two lists of tensors, as one vector each."""
    return sum((a - b).double().square().sum() for a, b in zip(some, others, strict=True)).sqrt().item()


def assert_no_further_from_fp32(changes):
    """Maps and gradients in bf16 with a switch are no further from fp32 than without it, by a fifth."""
    for exact, plain, switched in zip(outcome({}, bf16=False), outcome({}), outcome(changes), strict=True):
        assert distance(switched, exact) <= 1.2 * distance(plain, exact)


@pytest.mark.parametrize("attention", ["sdpa", "varlen", "flash"])
@pytest.mark.parametrize("windows", ["padded", "exact"])
def test_every_attention_is_scaled_dot_product_attention(attention, windows):
    if attention == "flash" and active_attention("auto", CUDA, "bf16") != "flash":
        pytest.skip("needs flash-attn-4 and compute capability 9.0 or 10.0")
    assert_no_further_from_fp32({"windows": windows, "attention": attention})


def test_a_gpu_gives_what_the_cpu_gives():
    set_speed(model := network(), PLAIN)
    images = torch.randn(1, 3, 160, 96, generator=torch.Generator().manual_seed(1))

    torch.testing.assert_close(
        [m.cpu() for m in outcome({"windows": "exact"}, bf16=False)[0]], model(images), atol=2e-4, rtol=1e-3
    )


@pytest.mark.parametrize("choice", ["blocks", "cuda_graphs"])
@pytest.mark.parametrize("attention", ["sdpa", "varlen"])
def test_compiled_and_captured_regions_are_the_plain_ones(choice, attention):
    assert_no_further_from_fp32({"windows": "exact", "attention": attention, "compile": choice})


@pytest.mark.parametrize("compiled", ["off", "blocks"])
def test_branches_on_streams_are_branches_one_after_another(compiled):
    torch.testing.assert_close(
        outcome({"streams": True, "compile": compiled}, bf16=False),
        outcome({"compile": compiled}, bf16=False),
        atol=2e-5,
        rtol=1e-3,  # atomic additions come in any order
    )


@pytest.mark.parametrize("windows", ["padded", "exact"])
def test_forward_and_backward_never_wait_for_the_gpu(windows):
    model = network().cuda()
    set_speed(model, PLAIN.override({"windows": windows}))
    images = torch.zeros(1, 3, 160, 96, device="cuda")
    model(images)  # kernels are compiled and looked up

    torch.cuda.set_sync_debug_mode("error")
    try:
        torch.stack([m.mean() for m in model(images)]).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_adamw_updates_all_weights_in_one_pass():
    model = network().cuda()
    optimizer = build_optimizer(model, OptimSpec(), model.layer_ids())

    torch.stack([m.mean() for m in model(torch.zeros(1, 3, 160, 96, device="cuda"))]).sum().backward()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        optimizer.step()

    assert any("FusedAdam" in event.key for event in profile.key_averages())
