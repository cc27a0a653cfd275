"""DeepSpeed's checkpoints. tests/golden/deepspeed_zero.zip is what DeepSpeed 0.19.8 saved on two ranks (CPU, gloo) at step 0 of
Sequential(Conv2d(3, 5, 3), BatchNorm2d(5), Conv2d(5, 7, 1)) with a parameter w1, AdamW over two groups (weights; vectors), at ZeRO stage
1 in fp32 and bf16 and stage 3; `tensors.pt` is the state dict before.
"""

import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from deepspeed_made import save_with_deepspeed
from deepspeed_worker import NUDGE

from piip.weights.read import WeightsError
from piip.weights.sources import read_weights

KINDS = ["zero1", "zero1_bf16", "zero3"]
GOLDEN = Path(__file__).parent.parent / "golden" / "deepspeed_zero.zip"


@pytest.fixture
def saved(tmp_path):
    """Folders by kind, and the tensors they hold."""
    with zipfile.ZipFile(GOLDEN) as archive:
        archive.extractall(tmp_path)
    return tmp_path


def expected(saved, kind):
    tensors = torch.load(saved / "tensors.pt")
    # ZeRO's fp32 weights begin as the module's, which bf16 has rounded; buffers stay as they are
    rounded = {k: v if "running" in k or "tracked" in k else v.bfloat16().float() for k, v in tensors.items()}
    return rounded if "bf16" in kind else tensors


def check(tensors, wanted):
    assert tensors.keys() == wanted.keys()
    for name, value in wanted.items():
        assert tensors[name].dtype == value.dtype, name
        torch.testing.assert_close(tensors[name], value, atol=0, rtol=0, msg=name)


def step(saved, kind):
    return saved / kind / "global_step0"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("given", ["folder", "step", "shard"])
def test_fp32_weights_are_put_together_from_the_shards(saved, kind, given):
    shard = next(step(saved, kind).glob("*zero_pp_rank_1_mp_rank_00_optim_states.pt"))

    weights = read_weights({"folder": saved / kind, "step": step(saved, kind), "shard": shard}[given])

    check(weights.tensors, expected(saved, kind))
    assert "fp32 from 2 ZeRO shards" in weights.origin


def test_the_modules_own_weights(saved):
    tensors = read_weights(step(saved, "zero1_bf16") / "mp_rank_00_model_states.pt").tensors

    assert tensors["0.weight"].dtype == torch.bfloat16
    check({k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}, expected(saved, "zero1_bf16"))


def test_a_folder_without_shards_gives_the_modules_weights(saved):
    for shard in step(saved, "zero1").glob("*optim_states.pt"):
        shard.unlink()

    check(read_weights(saved / "zero1").tensors, expected(saved, "zero1"))


def test_all_shards_are_needed(saved):
    for kind in KINDS:
        next(step(saved, kind).glob("*rank_0_mp_rank_00_optim_states.pt")).unlink()
        with pytest.raises(WeightsError, match=r"has the shards of ranks 1; 2 were written\. (All are|Give mp_rank)"):
            read_weights(saved / kind)


def test_stage_3_without_shards_has_no_weights(saved):
    for shard in step(saved, "zero3").glob("*optim_states.pt"):
        shard.unlink()

    with pytest.raises(WeightsError, match=r"has the shards of ranks none; 2 were written\. All are needed"):
        read_weights(saved / "zero3")


def test_names_are_in_the_model_file(saved):
    (step(saved, "zero1") / "mp_rank_00_model_states.pt").unlink()

    with pytest.raises(WeightsError, match="the names of the parameters are in it"):
        read_weights(saved / "zero1")


def test_latest_of_another_step_is_named(saved):
    (saved / "zero1" / "latest").write_text("global_step7\n")

    with pytest.raises(WeightsError, match=r"names global_step7, which is not there. There are: \['global_step0'\]"):
        read_weights(saved / "zero1")


def test_a_shard_of_another_run_does_not_fit(saved):
    one, other = (next(step(saved, kind).glob("*rank_1_mp_rank_00_optim_states.pt")) for kind in ("zero1", "zero3"))
    shutil.copy(other, one)

    with pytest.raises(WeightsError, match="shards are of different kinds"):
        read_weights(saved / "zero1")


def test_a_shard_that_asks_for_code_is_refused(saved):
    class Malicious:
        def __reduce__(self):
            return print, ("run",)

    shard = next(step(saved, "zero1").glob("*rank_1_mp_rank_00_optim_states.pt"))
    torch.save({"optimizer_state_dict": {"single_partition_of_fp32_groups": [], "loss_scaler": Malicious()}}, shard)

    with pytest.raises(WeightsError, match="its pickle asks for print"):
        read_weights(saved / "zero1")


@pytest.mark.long
@pytest.mark.parametrize("kind", ["zero0", "zero1_bf16", "zero2", "zero3", "zero3_bf16"])
def test_what_deepspeed_writes_today(tmp_path, kind):
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "backbone.w1": (1,),
        "backbone.branch1.fc.weight": (7, 5),
        "backbone.branch1.fc.bias": (7,),
        "neck.conv.weight": (3, 7, 1, 1),
    }
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}

    folder = save_with_deepspeed(tmp_path, tensors, kind)

    rounded = {k: v.bfloat16().float() if "bf16" in kind else v for k, v in tensors.items()}
    nudge = 1.0 if kind == "zero0" else NUDGE  # found only where the shards are read, not the module
    check(read_weights(folder).tensors, {k: v * nudge for k, v in rounded.items()})
