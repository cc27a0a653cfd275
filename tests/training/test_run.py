"""A whole trial of the real pico PIIP Mask R-CNN, in this process: train, save, die, resume, evaluate."""

import logging
import shutil
from contextlib import contextmanager
from functools import partial

import pyarrow.parquet as pq
import pytest
import torch
from kinds import DATA
from pico_trials import begin, pico_spec
from safetensors.torch import load_file

from piip import home
from piip.data import open_dataset
from piip.data.locating import locate
from piip.record.events import read_events, read_metrics, read_status
from piip.record.journal import Fenced, Journal
from piip.spec import CocoSpec
from piip.training import checkpoint, saving
from piip.training import run as running
from piip.training.engines.ddp import Engine
from piip.training.recorder import Recorder
from piip.training.run import run

pytestmark = [
    pytest.mark.usefixtures("process_group"),
    pytest.mark.filterwarnings(
        "ignore:Grad strides do not match bucket view strides"
    ),  # DDP, of depthwise convolutions
]

TIMED = ("time/", "cost/", "train/images_per_second")


class Killed(BaseException):
    """What a test raises where a process would die."""


def train(straight, spec, sources, report=lambda metrics: None):
    run(begin(straight, spec, sources), rank=0, world_size=1, report=report)


def recorded(key):
    """Metrics that must not depend on what happened on the way."""
    metrics = read_metrics(home.journal_dir(key))
    return {name: [(s, v) for s, v, _ in h] for name, h in metrics.items() if not name.startswith(TIMED)}


def weights(straight, step):
    path = home.checkpoint_dir(straight) / f"step_{step:08d}" / "model.safetensors"
    return {name: tensor.clone() for name, tensor in load_file(path).items()}  # the file's own memory otherwise


def same_state(one, other, step):
    """Whether weights and optimizer are equal, bit for bit."""
    files = ("model.safetensors", "state_rank0.safetensors")
    folders = [home.checkpoint_dir(key) / f"step_{step:08d}" for key in (one, other)]
    return all((folders[0] / name).read_bytes() == (folders[1] / name).read_bytes() for name in files)


SPEC = pico_spec(train__eval_every=2)


@pytest.fixture(scope="module")
def straight_home(demo_folder, process_group, tmp_path_factory):
    """A home with a trial in it that nothing happened to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIIP_HOME", str(tmp_path_factory.mktemp("straight")))
        shutil.copytree(demo_folder, home.data_root() / "demo")
        train("straight", SPEC, {split: locate(CocoSpec(name="demo"), split) for split in ("train", "val")})
        return home.home()


@pytest.fixture
def straight(straight_home, sources):
    """That trial's key, in this test's home."""
    for folder in ("journals", "storage"):
        shutil.copytree(straight_home / folder, home.home() / folder)
    return "straight"


@pytest.mark.slow
def test_the_loss_falls_on_a_few_images(sources):
    spec = pico_spec(train__steps=8, train__batch_size=3, optim__lr=1e-3, optim__schedule="constant", data__flip=0.0)
    train("fits", spec, sources)

    losses = [value for _, value in recorded("fits")["train/loss"]]

    assert sum(losses[-3:]) < 0.7 * sum(losses[:3]), losses


def test_a_trial_records_what_its_page_needs(straight):
    metrics, folder = read_metrics(home.journal_dir(straight)), home.journal_dir(straight)

    assert [step for step, *_ in metrics["train/loss"]] == [1, 2, 3, 4]
    assert [step for step, *_ in metrics["coco/box_ap"]] == [2, 4]
    assert metrics["train/loss"][0][1] == pytest.approx(sum(metrics[f"train/loss_{part}"][0][1] for part in (
        "objectness", "rpn_box", "classifier", "box", "mask")))  # fmt: skip
    assert metrics["cost/peak_memory_gb"][-1][1] > 0.1
    seconds = {step: value for step, value, _ in metrics["time/train_seconds"]}
    assert [(step, value) for step, value, _ in metrics["train/images_per_second_mean"]] == [
        (step, pytest.approx(step * SPEC.train.batch_size / seconds[step])) for step in (2, 4)
    ]
    assert read_status(folder) == "FINISHED"
    tags = {k: v for event, _ in read_events(folder) if event["kind"] == "tag" for k, v in event["tags"].items()}
    assert tags["piip.checkpoint"].endswith("/storage/straight")
    assert tags["piip.engine"] == "ddp"
    files = (folder / "artifacts" / "predictions").iterdir()
    assert {file.name for file in files} == {
        f"{name}{end}" for name in ("val", "best") for end in (".parquet", "_per_class.json")
    }
    kept = {
        name: pq.read_table(folder / "artifacts" / "predictions" / name) for name in ("val.parquet", "best.parquet")
    }
    assert kept["val.parquet"].column_names[:2] == ["image_id", "file_name"]


@pytest.mark.parametrize("engine", ["ddp", "deepspeed"])
def test_killed_and_resumed_is_the_same_to_the_bit(engine, straight, sources):
    spec = SPEC.override({"train.engine": engine})
    if engine == "deepspeed":  # it clips by its own arithmetic, so the last bits are not DDP's
        straight = "straight_deepspeed"
        train(straight, spec, sources)
    with killed(Recorder, "log", lambda _recorder, step, *_: step == 3):
        train("killed", spec, sources)

    train("killed", spec, sources)

    assert recorded("killed") == recorded(straight)
    assert same_state("killed", straight, 4)


@pytest.mark.slow
def test_a_running_mean_is_scored_and_resumed_and_the_weights_learn_as_without_it(straight, sources):
    spec = SPEC.override({"train.ema": 0.5})
    train("mean", spec, sources)
    with killed(Recorder, "log", lambda _recorder, step, *_: step == 3):
        train("killed", spec, sources)

    train("killed", spec, sources)

    assert recorded("killed") == recorded("mean")
    assert same_state("killed", "mean", 4)
    learned = load_file(home.checkpoint_dir("killed") / "step_00000004" / checkpoint.LEARNING)
    for name, value in weights(straight, 4).items():
        assert torch.equal(learned[name], value), name
    assert any(not torch.equal(value, learned[name]) for name, value in weights("killed", 4).items())


@contextmanager
def killed(where, name, when=lambda *args: True):
    """The process dies after a call of `where.name` with arguments that `when` says yes to."""
    real = getattr(where, name)

    def dying(*args, **more):
        real(*args, **more)
        if when(*args):
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(where, name, dying)
        with pytest.raises(Killed):
            yield


def test_an_evaluation_that_a_crash_cut_off_is_made_up_for(straight, sources):
    with killed(saving, "save", lambda _root, manifest: manifest.step == 4):  # saved, not yet scored
        train("cut", SPEC, sources)
    assert [step for step, _ in recorded("cut")["coco/box_ap"]] == [2]

    train("cut", SPEC, sources)

    assert recorded("cut") == recorded(straight)
    assert read_status(home.journal_dir("cut")) == "FINISHED"


def test_a_crash_between_the_best_mark_and_the_journal_loses_no_best(straight, sources):
    with killed(saving, "mark_best"):
        train("cut", SPEC, sources)

    train("cut", SPEC, sources)

    assert recorded("cut") == recorded(straight)
    assert checkpoint.best_mark(home.checkpoint_dir("cut")) == checkpoint.best_mark(home.checkpoint_dir(straight))


def test_a_finished_trial_is_not_evaluated_again(straight, sources, monkeypatch):
    before = read_metrics(home.journal_dir(straight))
    monkeypatch.setattr(running, "evaluate", None)

    train(straight, SPEC, sources)

    assert read_metrics(home.journal_dir(straight)) == before


def test_seconds_add_up_over_attempts(sources, monkeypatch):
    with killed(Recorder, "log", lambda _recorder, step, *_: step == 3):
        train("killed", SPEC, sources)
    before = checkpoint.last(home.checkpoint_dir("killed")).manifest.spent
    pretend = {name: value + 1000 for name, value in before.items()}
    monkeypatch.setattr(Recorder, "spent_before", lambda self, manifest: pretend)

    train("killed", SPEC, sources)

    assert before["time/train_seconds"] > 0
    spent = {name: history[-1][1] for name, history in read_metrics(home.journal_dir("killed")).items()}
    for name in ("time/train_seconds", "time/worker_seconds"):
        assert pretend[name] < spent[name] < pretend[name] + 60
    assert spent["time/eval_seconds"] > 1000
    assert spent["cost/peak_memory_gb"] == pretend["cost/peak_memory_gb"]  # the larger one, not the sum


def test_what_earlier_attempts_took_is_read_from_the_checkpoint_and_its_evaluation(straight, sources):
    last = checkpoint.last(home.checkpoint_dir(straight)).manifest
    before = Recorder(straight, rank=0, world_size=1).spent_before(last)
    logged = {name: history[-1][1] for name, history in read_metrics(home.journal_dir(straight)).items()}

    # the checkpoint was saved before the last evaluation, so it knows of one, the journal of two
    assert last.spent["time/eval_seconds"] < logged["time/eval_seconds"] == before["time/eval_seconds"]
    assert last.spent["time/train_seconds"] == logged["time/train_seconds"] == before["time/train_seconds"]


def test_a_flipped_bit_in_the_last_checkpoint_costs_its_steps_only(straight, sources, caplog):
    good = weights(straight, 4)
    path = home.checkpoint_dir(straight) / "step_00000004" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1000] ^= 16
    path.write_bytes(content)

    with caplog.at_level(logging.WARNING):
        train(straight, SPEC, sources)

    assert "step_00000004/model.safetensors is damaged" in caplog.text
    assert f"resuming {SPEC.name} from step 2" in caplog.text
    again = weights(straight, 4)
    assert all(torch.equal(again[name], good[name]) for name in good)


def test_a_replaced_attempt_writes_no_checkpoint(sources, monkeypatch):
    spec = pico_spec(train__log_every=4)  # it would find out at step 4 only
    real = running.loop.train

    def train_after_another_began(*args, **more):
        Journal(home.journal_dir("fenced"), attempt="newer")
        real(*args, **more)

    monkeypatch.setattr(running.loop, "train", train_after_another_began)
    with pytest.raises(Fenced):
        train("fenced", spec, sources)

    assert checkpoint.last(home.checkpoint_dir("fenced")) is None


def test_weights_that_are_not_finite_are_never_saved(sources, monkeypatch):
    real, steps = Engine.step, []

    def overflowing(self):
        real(self)
        steps.append(len(steps) + 1)
        if steps[-1] == 4:
            with torch.no_grad():
                list(self.module.parameters())[-1].view(-1)[0] = float("inf")

    monkeypatch.setattr(Engine, "step", overflowing)
    with pytest.raises(FloatingPointError, match=r"1 weights are not finite at step 4: \['head\.[a-z_.0-9]+'\]"):
        train("poisoned", pico_spec(), sources)

    assert checkpoint.last(home.checkpoint_dir("poisoned")).manifest.step == 2


def test_a_split_without_objects_has_no_score_and_is_no_error(sources, monkeypatch):
    monkeypatch.setattr(running, "evaluate", lambda *args, **kwargs: ({}, None, None))
    reported = []

    train("empty", pico_spec(train__steps=1), sources, reported.append)

    assert reported == [{"step": 1.0}]
    assert checkpoint.best(home.checkpoint_dir("empty")) is None
    assert read_status(home.journal_dir("empty")) == "FINISHED"


@pytest.mark.parametrize("data", DATA, ids=lambda data: data.kind)
def test_a_trial_ranks_its_checkpoints_by_the_score_of_its_data(data, sources, monkeypatch):
    first = data.scores[0]
    monkeypatch.setattr(
        running, "open_dataset", lambda _, *rest, **more: open_dataset(CocoSpec(name="demo"), *rest, **more)
    )
    found = iter([{first.name: 0.5, "other": 1.0}, {first.name: 0.25, "other": 2.0}])
    monkeypatch.setattr(running, "evaluate", lambda *args, **kwargs: (next(found), None, None))

    train("ranked", SPEC.model_copy(update={"data": data}), sources)

    assert checkpoint.best_mark(home.checkpoint_dir("ranked")) == (2, 0.5)
    assert recorded("ranked")[f"best/{first.name}"] == [(2, 0.5)]
    assert recorded("ranked")["best/other"] == [(2, 1.0)]


def test_fine_tuning_starts_from_weights_alone_and_resumes_from_its_own_checkpoint(straight, sources, monkeypatch):
    start = home.checkpoint_dir(straight)
    spec = SPEC.override({"model.weights": str(start), "optim.lr": 1e-9, "optim.weight_decay": 0.0})
    with killed(Recorder, "log", lambda _recorder, step, *_: step == 3):
        train("tuned", spec, sources)
    begun = weights(straight, 4)
    shutil.rmtree(start)  # whatever it began with: from now on its own checkpoint is all it needs
    monkeypatch.setattr(running, "start_from", None)

    train("tuned", spec, sources)

    # the optimizer began anew, and went on after the kill
    state = load_file(home.checkpoint_dir("tuned") / "step_00000004" / "state_rank0.safetensors")
    assert {value.item() for name, value in state.items() if name.endswith(":step")} == {
        4.0
    }  # the optimizer began anew, and went on after the kill
    for name, value in weights("tuned", 4).items():
        torch.testing.assert_close(value, begun[name], atol=1e-6, rtol=0)


@pytest.mark.slow
def test_compiled_blocks_train_as_plain_ones(sources, monkeypatch):
    # the graphs, computed op by op: what a compiler makes of them is tests/models/test_speed.py's
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=lambda graph, _: graph))
    losses = []
    for choice in ("off", "blocks"):
        plain = pico_spec(train__engine="deepspeed", train__steps=2, train__micro_batch=1)
        train(choice, plain.override({"speed.compile": choice}), sources)
        losses.append(recorded(choice)["train/loss"])

    assert losses[0] == losses[1]


def test_processes_that_load_images_change_no_number(straight, sources, monkeypatch):
    asked = []
    real = running.TrainLoader
    monkeypatch.setattr(running, "TrainLoader", lambda *a, **k: asked.append(k["num_processes"]) or real(*a, **k))

    run(begin("processes", SPEC, sources), rank=0, world_size=1, report=lambda metrics: None, loader_processes=1)

    assert asked == [1]
    assert recorded("processes") == recorded("straight")
