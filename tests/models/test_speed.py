"""Every switch of SpeedSpec gives what its plain form gives."""

import platform
import subprocess
import sys
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from piip.models.backbones.piip import PIIP
from piip.models.backbones.streams import side_by_side
from piip.models.branches import windows
from piip.models.branches.vit import Branch
from piip.models.heads.roi_heads import build_roi_heads
from piip.models.meeting.interaction import ConvFFN, DeformableCrossAttention
from piip.models.speed import active_attention, set_speed
from piip.ops.deform_attn_pair import deform_attn_pair
from piip.spec import BranchSpec, InteractionSpec, MaskRCNNSpec, PIIPSpec, SpeedSpec

PLAIN = SpeedSpec(windows="padded", interactions="fp32", attention="sdpa", layout="contiguous", memory="returned")
SWITCHES = [
    PLAIN.override(change)
    for change in (
        {"windows": "exact"},
        {"interactions": "mixed"},
        {"interactions": "bf16"},
        {"attention": "products"},
        {"attention": "products", "windows": "exact"},
        {"layout": "channels_last"},
        {"memory": "kept"},
    )
]


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


def outcome(speed, *, bf16=False, checkpointing=False):
    model = network()
    for branch in model.branches:
        branch.checkpointing = checkpointing
    set_speed(model, speed, precision="bf16" if bf16 else "fp32")
    images = torch.randn(1, 3, 160, 96, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        maps = model(images)
    sum((m.float() ** 2).mean() for m in maps).backward()
    return [m.float() for m in maps], [p.grad for p in model.parameters()]


@pytest.mark.parametrize("speed", SWITCHES, ids=str)
def test_each_switch_gives_outputs_and_gradients_of_the_plain_form(speed):
    torch.testing.assert_close(outcome(speed), outcome(PLAIN), atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize(("layout", "copied"), [("contiguous", True), ("channels_last", False)])
def test_layout_is_that_of_maps_and_of_what_convolutions_see(layout, copied):
    model, heads, seen = network(), build_roi_heads(MaskRCNNSpec(num_classes=2, fpn_channels=8)), []
    for part in (heads.mask_head, *(m.dwconv for m in model.modules() if isinstance(m, ConvFFN))):
        part.register_forward_pre_hook(lambda _, given: seen.append(given[0].is_contiguous()))
    for part in (model, heads):
        set_speed(part, SpeedSpec(layout=layout))

    maps = model(torch.randn(2, 3, 160, 96))
    heads.mask_logits(
        [torch.randn(1, 8, side, side) for side in (32, 16, 8, 4)], [torch.tensor([[3.0, 4.0, 60.0, 70.0]])]
    )

    assert [m.is_contiguous() for m in maps] == [copied] * 4
    assert seen == [copied] * 5  # two units of two directions, and the mask head


@pytest.fixture
def graphs(monkeypatch):
    """The graphs that torch.compile makes, computed op by op: no compiler is waited for."""
    seen = []

    def count(graph, inputs):
        seen.append(graph)
        return graph

    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=count))
    yield seen
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
def test_compiled_regions_are_whole_shared_and_equal(graphs, bf16):
    exact = PLAIN.override({"windows": "exact"})

    compiled = outcome(exact.override({"compile": "blocks"}), bf16=bf16)

    # a graph that broke would have raised; four blocks in two branches, two units of one shape
    assert len(graphs) == 3
    torch.testing.assert_close(compiled, outcome(exact, bf16=bf16), atol=2e-5, rtol=1e-3)


@pytest.mark.slow
def test_compiled_blocks_may_be_recomputed(graphs):
    compiled = outcome(PLAIN.override({"compile": "blocks"}), checkpointing=True)

    assert graphs
    torch.testing.assert_close(compiled, outcome(PLAIN), atol=2e-5, rtol=1e-3)


@pytest.mark.slow
def test_the_whole_backbone_is_one_graph(graphs):
    torch.compile(network(), fullgraph=True)(torch.zeros(1, 3, 160, 96))

    assert len(graphs) == 1


@pytest.mark.slow
def test_what_the_compiler_makes_of_the_regions_is_equal():
    torch.testing.assert_close(outcome(PLAIN.override({"compile": "blocks"})), outcome(PLAIN), atol=2e-5, rtol=1e-3)


@pytest.mark.long
def test_what_the_compiler_makes_of_the_regions_in_bf16_is_as_close_to_fp32():
    fast = PLAIN.override({"compile": "blocks"})

    for truth, a, b in zip(outcome(PLAIN)[0], outcome(PLAIN, bf16=True)[0], outcome(fast, bf16=True)[0], strict=True):
        assert (b - truth).norm() <= 1.2 * (a - truth).norm()


def test_regions_are_compiled_in_training_only_and_can_be_left(graphs):
    model = network()
    set_speed(model, PLAIN.override({"compile": "blocks"}))
    with torch.no_grad():
        model(torch.zeros(1, 3, 160, 96))
    set_speed(model, PLAIN)
    model(torch.zeros(1, 3, 160, 96))

    assert graphs == []
    assert model.state_dict().keys() == network().state_dict().keys()


def test_cuda_graphs_need_cuda():
    with pytest.raises(RuntimeError, match=r"speed\.compile='cuda_graphs' needs a CUDA GPU, the network is on cpu"):
        set_speed(network(), SpeedSpec(compile="cuda_graphs"))


def test_streams_need_cuda_and_no_captured_graphs():
    with pytest.raises(RuntimeError, match=r"speed\.streams=true needs a CUDA GPU, the network is on cpu"):
        set_speed(network(), SpeedSpec(streams=True))
    with pytest.raises(ValueError, match="exclude each other"):
        SpeedSpec(streams=True, compile="cuda_graphs")


def test_every_branch_waits_for_the_interaction_before_and_the_interaction_after_for_every_branch(monkeypatch):
    said = []

    class Stream:
        def __init__(self, name):
            self.name = name

        def wait_stream(self, other):
            said.append(f"{self.name} waits for {other.name}")

    sides = [Stream("first"), Stream("second")]
    monkeypatch.setattr("piip.models.backbones.streams._streams", lambda *_: sides)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: Stream("main"))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: said.append(f"on {stream.name}") or nullcontext())
    monkeypatch.setattr(
        torch.Tensor, "record_stream", lambda tensor, stream: said.append(f"{tensor.item()} kept for {stream.name}")
    )

    results = side_by_side(
        [lambda: (torch.tensor(3), (1, 1)), lambda: (torch.tensor(4), (1, 1))], [torch.tensor(1), torch.tensor(2)]
    )

    assert [tokens.item() for tokens, _ in results] == [3, 4]
    assert said == [
        "first waits for main", "1 kept for first", "on first", "second waits for main", "2 kept for second", "on second",
        "main waits for first", "3 kept for main", "main waits for second", "4 kept for main",
    ]  # fmt: skip


class NoSyncs(TorchDispatchMode):
    """Refuses what would make a CPU wait for a GPU: numbers and sizes that depend on data, constants that are copied over."""

    WAIT = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_consecutive", "equal", "lift_fresh")

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        assert op.overloadpacket.__name__ not in self.WAIT, f"{op} waits for the GPU"
        indices = (
            args[1] if op.overloadpacket.__name__.startswith("index") and isinstance(args[1], list | tuple) else ()
        )
        assert all(i is None or i.dtype != torch.bool for i in indices), f"{op} with a mask waits for the GPU"
        return op(*args, **(kwargs or {}))


@pytest.mark.parametrize("speed", [PLAIN, SpeedSpec()], ids=["plain", "fast"])
def test_forward_and_backward_never_wait_for_a_gpu(speed):
    model = network()
    set_speed(model, speed)
    images = torch.zeros(1, 3, 160, 96)

    with NoSyncs():
        torch.stack([m.mean() for m in model(images)]).sum().backward()
    with pytest.raises(AssertionError, match="waits for the GPU"), NoSyncs():
        images.sum().item()


def test_fake_cuda_tensors_go_through_the_backbone(monkeypatch):
    """What runs on CUDA only, without data: nothing is copied from the CPU and no size depends on data, or it would raise."""
    model = network()
    monkeypatch.setattr(windows, "HALF", (torch.float32,))
    monkeypatch.setattr(windows.varlen, "varlen_attn", lambda query, *_: torch.empty_like(query))
    with FakeTensorMode():
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                setattr(module, name, torch.nn.Parameter(torch.empty(parameter.shape, device="cuda")))
            if isinstance(module, Branch):
                module.set_windows(exact=True, together=True)
        maps = model(torch.empty(1, 3, 160, 96, device="cuda"))

    assert {m.device.type for m in maps} == {"cuda"}


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
    assert active_attention("auto", device, precision) == ("products" if device == CPU else "sdpa")


def test_flash_attention_is_chosen_where_it_can_run(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr("piip.models.speed._has_flash_attention_4", lambda: True)

    assert active_attention("auto", GPU, "bf16") == "flash"
    assert active_attention("auto", GPU, "fp32") == "sdpa"


def test_a_run_of_a_gpu_is_rebuilt_with_switches_that_any_machine_has():
    speed = SpeedSpec(windows="padded", interactions="fp32", heads="bf16", attention="varlen")

    assert speed.anywhere == SpeedSpec(windows="padded", interactions="fp32", heads="bf16")


PAGE_FAULTS = """
import resource, torch
from piip.models.speed import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(1_000_000) for _ in range(40)]
    del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

for kept in (False, True):
    keep_freed_memory(kept)
    faults()
    print(faults())
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_kept_memory_is_not_asked_for_again():
    # in processes of their own, and several: what lies on top of the heap, now and then by chance, keeps it from shrinking
    command = [sys.executable, "-c", PAGE_FAULTS]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() for _ in range(3)]
    returned, kept = (max(map(int, counts)) for counts in zip(*runs, strict=True))

    # 160 MB, all but 64 MB of which are given back; pages are of 4 to 64 kB
    assert returned > 96e6 / 65536
    assert kept < returned / 10


@pytest.mark.parametrize(
    ("speed", "dtype"),
    [
        (PLAIN, torch.float32),
        (SpeedSpec(), torch.bfloat16),
        (SpeedSpec(interactions="bf16"), torch.bfloat16),
    ],
    ids=str,
)
def test_the_attentions_outer_layers_have_the_dtype_that_was_asked_for(monkeypatch, speed, dtype):
    model, seen, sampled = network(), set(), set()

    def spy(*directions, **kwargs):
        sampled.update(direction.packed.dtype for direction in directions)
        return deform_attn_pair(*directions, **kwargs)

    monkeypatch.setattr("piip.models.meeting.interaction.deform_attn_pair", spy)
    set_speed(model, speed)
    for module in model.modules():
        if isinstance(module, DeformableCrossAttention):
            module.output_proj.register_forward_hook(lambda _, __, out: seen.add(out.dtype))

    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model(torch.zeros(1, 3, 160, 96))

    assert seen == {dtype}
    assert sampled == {torch.float32}
