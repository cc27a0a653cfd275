"""DeepSpeed is more than a wrapper: every ZeRO stage and precision learns what stage 0 learns, and resumes to the bit."""

import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from pico_trials import pico_spec
from waiting import LONG

import piip
from piip import home
from piip.data.formats.coco import CocoDataset
from piip.data.locating import locate
from piip.models import build_model
from piip.record.events import read_metrics
from piip.spec import CocoSpec
from piip.training import checkpoint
from piip.training.evaluate import evaluate

STEPS, STOP = 8, 4

ENGINES = [("deepspeed", 0), ("deepspeed", 1), ("deepspeed", 2), ("deepspeed", 3), ("ddp", 0)]
NAMES = [f"{engine}{stage}" for engine, stage in ENGINES]
PRECISIONS = ["fp32", "bf16"]


def spec_of(engine, stage, precision, steps, stop):
    # A small rate: Adam's first steps are lr * sign(gradient), for noise too, so at the preset's 5e-4 the last bit of a sum is a
    # tenth of the loss 20 steps later, at any stage (measured: 1.7e-4 at step 4, 9.6e-2 at step 19, by stage 1 in fp32).
    # Padded windows, which stage 3 always takes: the engines are compared, not the windows.
    return pico_spec(
        speed__windows="padded",
        train__engine=engine, train__zero_stage=stage, train__precision=precision, optim__lr=2e-5, optim__warmup_steps=0,
        train__steps=steps, train__save_every=stop, train__eval_every=steps,
    )  # fmt: skip


def train(folder, specs, *, world_size, stop, **env):
    """All of `specs` on `world_size` processes, straight and resumed, in the PIIP_HOME of the environment."""
    plan = {
        "store": str(folder / "store"),
        "stop": stop,
        "specs": {k: s.model_dump(mode="json") for k, s in specs.items()},
    }
    (folder / "plan.json").write_text(json.dumps(plan))
    root = str(Path(piip.__file__).parent.parent)
    env = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"} | env
    command = [sys.executable, Path(__file__).parents[1] / "support" / "zero_worker.py"]
    logs = [folder / f"rank{rank}.log" for rank in range(world_size)]
    workers = [
        subprocess.Popen([*command, str(rank), str(world_size), folder / "plan.json"], env=env, stdout=log.open("w"),
                         stderr=subprocess.STDOUT)
        for rank, log in enumerate(logs)
    ]  # fmt: skip
    try:
        codes = [worker.wait(LONG) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert codes == [0] * world_size, "\n".join(log.read_text()[-4000:] for log in logs)


@pytest.fixture(scope="module")
def trained(demo_folder, tmp_path_factory):
    """Home of every engine's and precision's steps on two workers, straight, and stopped half way and resumed."""
    folder = tmp_path_factory.mktemp("zero")
    specs = {f"{e}{s}-{p}": spec_of(e, s, p, STEPS, STOP) for p in PRECISIONS for e, s in ENGINES}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIIP_HOME", str(folder / "home"))
        shutil.copytree(demo_folder, home.data_root() / "demo")
        train(folder, specs, world_size=2, stop=STOP, CUDA_VISIBLE_DEVICES="")
    return folder / "home"


@pytest.fixture
def in_that_home(trained, monkeypatch):
    monkeypatch.setenv("PIIP_HOME", str(trained))


def history(key, name="train/loss"):
    return {step: value for step, value, _ in read_metrics(home.journal_dir(key))[name]}


def deviations(key, reference):
    """Of each step's loss, as a part of it."""
    ours, theirs = history(key), history(reference)
    assert ours.keys() == theirs.keys()
    return [abs(ours[step] - theirs[step]) / theirs[step] for step in sorted(ours)]


@pytest.mark.slow
@pytest.mark.usefixtures("in_that_home")
@pytest.mark.parametrize("name", NAMES[1:])
def test_every_loss_in_fp32_is_that_of_stage_0(name):
    apart = deviations(f"straight-{name}-fp32", "straight-deepspeed0-fp32")

    assert len(apart) == STEPS
    assert apart[0] == 0  # nothing has been exchanged yet
    # the same sums in another order; measured: median 2e-7, at most 2.4e-7 by stages 1 and 2, 9.3e-6 by stage 3
    assert statistics.median(apart) < 1e-5
    assert max(apart) < 1e-3


@pytest.mark.slow
@pytest.mark.usefixtures("in_that_home")
@pytest.mark.parametrize("name", NAMES[1:])
def test_every_loss_in_bf16_is_that_of_stage_0_as_far_as_8_bits_and_proposals_tell(name):
    apart = deviations(f"straight-{name}-bf16", "straight-deepspeed0-bf16")

    assert apart[0] == 0
    # A last bit of a weight in fp32 turns a bit of bf16, 2^-9, here and there: the middle of 20 steps was measured as 7.7e-4
    assert statistics.median(apart) < 5e-3
    # and now and then another proposal among 30 wins; measured 5.2e-2
    assert max(apart) < 0.15


@pytest.mark.slow
@pytest.mark.usefixtures("in_that_home")
def test_bf16_is_not_fp32():
    assert max(deviations("straight-deepspeed1-bf16", "straight-deepspeed1-fp32")) > 0


@pytest.mark.slow
@pytest.mark.usefixtures("in_that_home")
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", NAMES)
def test_stopped_half_way_and_resumed_is_the_same_to_the_bit(name, precision):
    straight, resumed = f"straight-{name}-{precision}", f"resumed-{name}-{precision}"

    losses = history(resumed)
    assert losses == {step: loss for step, loss in history(straight).items() if step > STOP}
    assert history(resumed, "coco/box_ap") == history(straight, "coco/box_ap")
    last = f"step_{STEPS:08d}"
    files = sorted((home.checkpoint_dir(straight) / last).glob("*.safetensors"))
    assert [file.name for file in files] == ["model.safetensors", "state_rank0.safetensors", "state_rank1.safetensors"]
    for file in files:
        assert (home.checkpoint_dir(resumed) / last / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.slow
@pytest.mark.usefixtures("in_that_home")
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", NAMES)
def test_one_worker_predicts_from_the_checkpoint_what_two_predicted_in_training(name, precision):
    key = f"straight-{name}-{precision}"
    spec = spec_of("ddp", 0, "fp32", STEPS, STOP)
    model = build_model(spec.model, pretrained=False)
    checkpoint.load_model(model, checkpoint.verify(home.checkpoint_dir(key) / f"step_{STEPS:08d}"))
    data = CocoDataset(locate(CocoSpec(name="demo"), "val"), spec.data, spec.model.input, training=False)

    metrics, table, _ = evaluate(model, data)
    results = table.to_pylist()

    logged = pq.read_table(home.journal_dir(key) / "artifacts" / "predictions" / "val.parquet").to_pylist()
    assert len(results) > 0
    # another process, another alignment of memory: the last bit of a score (measured 1.5e-8)
    assert [(r["image_id"], r["category_id"]) for r in results] == [(r["image_id"], r["category_id"]) for r in logged]
    assert [r["score"] for r in results] == pytest.approx([r["score"] for r in logged], abs=1e-6)
    assert metrics == pytest.approx({name: history(key, name)[STEPS] for name in metrics}, abs=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_bf16_step_of_zero_1_on_cuda_is_that_of_stage_0(sources, tmp_path):
    world_size = min(2, torch.cuda.device_count())
    specs = {f"stage{stage}": spec_of("deepspeed", stage, "bf16", 2, 1) for stage in (0, 1)}

    train(tmp_path, specs, world_size=world_size, stop=1)

    first, second = deviations("straight-stage1", "straight-stage0")
    assert first < 1e-3  # before an update: CUDA adds in any order
    assert second < 0.1  # after one; see the CPU's figures above
    # stopped after the first step and resumed
    assert history("resumed-stage1")[2] == pytest.approx(history("straight-stage1")[2], rel=0.1)
