"""Every switch of SpeedSpec gives what its plain form gives."""

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from piip.models.branches import Branch
from piip.models.interaction import DeformableCrossAttention
from piip.models.piip import PIIP
from piip.models.speed import active_attention, set_speed
from piip.ops.deform_attn_packed import deform_attn_packed
from piip.spec import BranchSpec, InteractionSpec, PIIPSpec, SpeedSpec

PLAIN = SpeedSpec(windows="padded", interactions="fp32")
SWITCHES = [PLAIN.override({name: choice}) for name, choice in (("windows", "exact"), ("interactions", "mixed"))]


def network() -> PIIP:
    torch.manual_seed(0)
    specs = tuple(BranchSpec(arch="tiny", resolution=side) for side in (160, 96))
    branches = [
        Branch(
            VisionTransformer(img_size=side, embed_dim=32, depth=2, num_heads=2, class_token=False, global_pool="avg"),
            window=4,
        )
        for side in (160, 96)
    ]
    model = PIIP(branches, PIIPSpec(branches=specs, interaction=InteractionSpec(count=2, num_heads=4, drop_path=0)))
    for name, parameter in model.named_parameters():
        if name.endswith("gamma"):
            torch.nn.init.normal_(parameter)  # else interactions do nothing
    return model.eval()


def outcome(speed, *, bf16=False):
    model = network()
    set_speed(model, speed)
    images = torch.randn(1, 3, 160, 96, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        maps = model(images)
    sum((m.float() ** 2).mean() for m in maps).backward()
    return [m.float() for m in maps], [p.grad for p in model.parameters()]


@pytest.mark.parametrize("speed", SWITCHES, ids=str)
def test_each_switch_gives_outputs_and_gradients_of_the_plain_form(speed):
    torch.testing.assert_close(outcome(speed), outcome(PLAIN), atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("speed", SWITCHES, ids=str)
def test_in_bf16_no_switch_is_further_from_fp32_than_the_plain_form_by_a_fifth(speed):
    exact, plain, switched = outcome(PLAIN)[0], outcome(PLAIN, bf16=True)[0], outcome(speed, bf16=True)[0]

    for truth, a, b in zip(exact, plain, switched, strict=True):
        assert (b - truth).norm() <= 1.2 * (a - truth).norm()


CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("attention", "device", "precision", "capability", "problem"),
    [
        ("flash", CPU, "bf16", (9, 0), "runs on a CUDA GPU, the network is on cpu"),
        ("varlen", CPU, "bf16", (9, 0), "runs on a CUDA GPU, the network is on cpu"),
        ("flash", GPU, "fp32", (9, 0), "takes bf16, train.precision is fp32"),
        ("flash", GPU, "bf16", (8, 0), "compute capability 9.0 or 10.0, this GPU has 8.0"),
        ("varlen", GPU, "bf16", (7, 5), "compute capability 8.0, this GPU has 7.5"),
        ("flash", GPU, "bf16", (9, 0), "pip install 'piip\\[flash\\]'"),
    ],
)
def test_attention_that_cannot_run_says_why(monkeypatch, attention, device, precision, capability, problem):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr("piip.models.speed._has_flash_attention_4", lambda: False)

    with pytest.raises(
        RuntimeError, match=f"speed.attention='{attention}' cannot run: .*{problem}.* Take 'auto' or 'sdpa'"
    ):
        active_attention(attention, device, precision)
    assert active_attention("auto", device, precision) == "sdpa"


def test_flash_attention_is_chosen_where_it_can_run(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr("piip.models.speed._has_flash_attention_4", lambda: True)

    assert active_attention("auto", GPU, "bf16") == "flash"
    assert active_attention("auto", GPU, "fp32") == "sdpa"


def test_a_run_of_a_gpu_is_rebuilt_with_switches_that_any_machine_has():
    speed = SpeedSpec(windows="padded", interactions="fp32", attention="varlen")

    assert speed.anywhere == PLAIN


@pytest.mark.parametrize(("speed", "dtype"), [(PLAIN, torch.float32), (SpeedSpec(), torch.bfloat16)], ids=str)
def test_the_attentions_outer_layers_have_the_dtype_that_was_asked_for(monkeypatch, speed, dtype):
    model, seen, sampled = network(), set(), set()

    def spy(value, packed, **kwargs):
        sampled.add(packed.dtype)
        return deform_attn_packed(value, packed, **kwargs)

    monkeypatch.setattr("piip.models.interaction.deform_attn_packed", spy)
    set_speed(model, speed)
    for module in model.modules():
        if isinstance(module, DeformableCrossAttention):
            module.output_proj.register_forward_hook(lambda _, __, out: seen.add(out.dtype))

    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model(torch.zeros(1, 3, 160, 96))

    assert seen == {dtype}
    assert sampled == {torch.float32}
