"""PyTorch's side of the CUDA ops and their kernels together, on the CPU: csrc/*_cuda.cpp through cuda_torch_on_host.cpp.

Held to the CPU's ops: how tensors are checked, laid out and given to kernels. Streams and devices are a GPU's to test.
"""

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from test_sampling import CALLS, msda_call

from piip.ops import deform_attn_pair  # noqa: F401  (defines the ops)
from piip.ops.compiled import cpu, cuda

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("compiled")]

HERE = Path(__file__).parent
FP32, FP16, BF16 = torch.float32, torch.float16, torch.bfloat16
OPS = ("deform_attn", "deform_attn_packed", "msda", "dcnv3")
PAIR = "deform_attn_pair"
TOLERANCE = {FP32: 1e-5, FP16: 4e-3, BF16: 3e-2}
HW = (5, 7, 4, 3)


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    """The namespace of ops, compiled once."""
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    folder = tmp_path_factory.mktemp("cuda_torch_on_host")
    common = ["g++", "-std=c++20", "-O1", "-w", "-fPIC", f"-I{cpu.sources()}", "-Dpiip=piip_on_host"]
    kernels = [*common, "-D__CUDA_ARCH__=900", "-DPIIP_WITH_TORCH=1", "-c", str(HERE / "cuda_on_host.cpp")]
    torch_side = [*common, cpu.STABLE_ABI, f"-I{cpu.TORCH / 'include'}", "-c", str(HERE / "cuda_torch_on_host.cpp")]
    commands = [torch_side]
    for sampling in (0, 1):
        commands += [[*kernels, *cuda.storage_flags(s), f"-DPIIP_SAMPLING={sampling}"] for s in cuda.STORAGES]
    objects = [str(folder / f"{i}.o") for i in range(len(commands))]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda c, o: subprocess.run([*c, "-o", o], check=True), commands, objects))
    library = str(folder / "on_host.so")
    subprocess.run(["g++", "-shared", *objects, f"-L{cpu.TORCH / 'lib'}", "-ltorch_cpu", "-o", library], check=True)
    schemas = torch.library.Library("piip_on_host", "FRAGMENT")
    for op in (*OPS, PAIR):
        for way in ("forward", "backward"):
            schemas.define(str(getattr(torch.ops.piip, f"{op}_{way}").default._schema).removeprefix("piip::"))
    torch.ops.load_library(library)
    yield torch.ops.piip_on_host
    schemas._destroy()


def assert_close(actual, expected):
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == e.dtype
        assert a.shape == e.shape
        if e.numel():
            assert (a.double() - e.double()).abs().max() <= TOLERANCE[a.dtype] * max(1.0, e.double().abs().max().item())


def both_ways(ops, op, tensors, sizes, **options):
    out = getattr(ops, f"{op}_forward")(*tensors, *sizes)
    grad_out = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out).to(out.dtype)
    return [out, *getattr(ops, f"{op}_backward")(grad_out, *tensors, *sizes, **options)]


def apart(dim=6, heads=4, points=4, dtype=FP32, location=FP32, batch=2):
    generator = torch.Generator().manual_seed(0)
    shapes = (batch, 35, heads, dim), (batch, 12, heads, points, 2), (batch, 12, heads, points)
    value, offsets, logits = (torch.randn(s, generator=generator) for s in shapes)
    return value.to(dtype), (2 * offsets).to(location), logits.to(location)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("types", [(FP32, FP32), (BF16, FP32), (BF16, BF16)])
@pytest.mark.parametrize(("dim", "points", "heads"), [(6, 4, 4), (32, 4, 3), (7, 3, 3), (12, 4, 16)])
def test_deform_attn_is_the_cpu_op(host, dim, points, heads, types, deterministic):
    value, offsets, logits = apart(dim, heads, points, *types)
    expected = both_ways(torch.ops.piip, "deform_attn", (value, offsets, logits), HW)
    assert_close(both_ways(host, "deform_attn", (value, offsets, logits), HW, deterministic=deterministic), expected)

    packed = torch.cat([offsets.flatten(2), logits.flatten(2)], -1)
    out, grad_value, grad_packed = both_ways(
        host, "deform_attn_packed", (value, packed), HW, deterministic=deterministic
    )
    parts = grad_packed.split([2 * heads * points, heads * points], -1)
    shaped = [part.reshape(t.shape) for part, t in zip(parts, (offsets, logits), strict=True)]
    assert_close([out, grad_value, *shaped], expected)


@pytest.mark.parametrize("dim", [6, 7, 32])
def test_every_way_to_add_up_the_gradient_is_the_same(host, dim):
    tensors = apart(dim)
    _, *expected = both_ways(torch.ops.piip, "deform_attn", tensors, HW)
    grad_out = torch.linspace(-1, 1, 2 * 12 * 4 * dim).view(2, 12, 4 * dim)
    for kind in (0, 1, 2):
        assert_close(host.deform_attn_sums_backward(grad_out, *tensors, *HW, kind), expected)


def direction(dim, hw, heads, types, seed, batch=2):
    generator, (rows, columns, query_rows, query_columns) = torch.Generator().manual_seed(seed), hw
    value = torch.randn(batch, rows * columns, heads, dim, generator=generator).to(types[0])
    packed = torch.randn(batch, query_rows * query_columns, 12 * heads, generator=generator)
    return value, (2 * packed).to(types[1])


# The three pairs that one launch does, on blocks of every shape; then a pair of other widths, which are two.
PAIRS = [((6, 12), 16), ((12, 24), 16), ((24, 32), 16), ((24, 32), 3), ((12, 24), 130), ((6, 24), 16)]


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("types", [(FP32, FP32), (BF16, FP32), (BF16, BF16)])
@pytest.mark.parametrize(("dims", "heads"), PAIRS)
def test_both_directions_of_a_unit_are_two_calls(host, dims, heads, types, deterministic):
    hws = [5, 7, 4, 3], [4, 3, 5, 7]
    calls = [direction(dim, hw, heads, types, seed) for seed, (dim, hw) in enumerate(zip(dims, hws, strict=True))]
    outs = host.deform_attn_pair_forward(*calls[0], *calls[1], [*hws[0], *hws[1]])
    grads_out = [torch.linspace(-1, 1, out.numel()).view_as(out).to(out.dtype) for out in outs]
    gradients = host.deform_attn_pair_backward(
        *grads_out, *calls[0], *calls[1], [*hws[0], *hws[1]], deterministic=deterministic
    )

    expected = [host.deform_attn_packed_forward(*call, *hw) for call, hw in zip(calls, hws, strict=True)]
    assert all(torch.equal(a, e) for a, e in zip(outs, expected, strict=True))
    for i, (call, hw) in enumerate(zip(calls, hws, strict=True)):
        wanted = host.deform_attn_packed_backward(grads_out[i], *call, *hw, deterministic=deterministic)
        assert all(torch.equal(a, e) for a, e in zip(gradients[2 * i : 2 * i + 2], wanted, strict=True))


def test_a_pair_with_nothing_to_do_or_of_two_dtypes_is_two_calls(host):
    hws = [5, 7, 4, 3], [4, 3, 5, 7]
    for few, types in ((0, (FP32, FP32)), (2, (BF16, BF16))):
        calls = [direction(6, hws[0], 4, (FP32, FP32), 0), direction(12, hws[1], 4, types, 1)]
        calls = [[t[:few] for t in call] for call in calls]
        outs = host.deform_attn_pair_forward(*calls[0], *calls[1], [*hws[0], *hws[1]])
        expected = [host.deform_attn_packed_forward(*call, *hw) for call, hw in zip(calls, hws, strict=True)]
        assert all(torch.equal(a, e) for a, e in zip(outs, expected, strict=True))
        gradients = host.deform_attn_pair_backward(*outs, *calls[0], *calls[1], [*hws[0], *hws[1]])
        assert [g.shape for g in gradients] == [t.shape for call in calls for t in call]


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("op", CALLS)
@pytest.mark.parametrize("types", [(FP32, FP32), (BF16, FP32), (BF16, BF16)])
@pytest.mark.parametrize("dim", [6, 16, 32])
def test_sampling_is_the_cpu_op(host, op, dim, types, deterministic):
    call = CALLS[op](dim=dim)
    tensors = [t.detach().to(types[0] if i == 0 else types[1]) for i, t in enumerate(call.tensors)]
    sizes = call.raw(*tensors)[1][3:]
    expected = both_ways(torch.ops.piip, op, tensors, sizes)
    assert_close(both_ways(host, op, tensors, sizes, deterministic=deterministic), expected)


def test_every_geometry_of_dcnv3_is_the_cpu_op(host):
    for geometry in (
        {"stride": 2, "pad": 0},
        {"dilation": 2, "remove_center": True},
        {"kernel_size": 2, "offset_scale": 0.5},
    ):
        call = CALLS["dcnv3"](hw=(6, 9), **geometry)
        tensors, sizes = [t.detach() for t in call.tensors], call.raw(*call.tensors)[1][3:]
        assert_close(both_ways(host, "dcnv3", tensors, sizes), both_ways(torch.ops.piip, "dcnv3", tensors, sizes))


@pytest.mark.parametrize("op", OPS)
def test_strided_inputs_and_nothing_to_do(host, op):
    if op in CALLS:
        call = CALLS[op](batch=4)
        tensors, sizes = [t.detach() for t in call.tensors], call.raw(*call.tensors)[1][3:]
    else:
        value, offsets, logits = apart(batch=4)
        packed = op == "deform_attn_packed"
        tensors = (
            [value, torch.cat([offsets.flatten(2), logits.flatten(2)], -1)] if packed else [value, offsets, logits]
        )
        sizes = HW
    for few in ([t[::2] for t in tensors], [t[:0] for t in tensors]):
        assert_close(both_ways(host, op, few, sizes), both_ways(torch.ops.piip, op, few, sizes))


def test_what_the_kernels_cannot_do_is_refused_in_words(host):
    call = msda_call(shapes=((1, 1),) * 65, points=1)
    with pytest.raises(RuntimeError, match=r"at most 64 levels .* got 65. Take kernel='reference'"):
        host.msda_forward(*(t.detach() for t in call.tensors), [1] * 130)
    value, offsets, logits = apart()
    with pytest.raises(RuntimeError, match="of one dtype"):
        host.deform_attn_forward(value, offsets, logits.bfloat16(), *HW)
    with pytest.raises(RuntimeError, match="float32, float16 or bfloat16"):
        host.deform_attn_forward(value.double(), offsets, logits, *HW)
    with pytest.raises(RuntimeError, match="B, Hv"):
        host.deform_attn_forward(value[:, :-1], offsets, logits, *HW)
