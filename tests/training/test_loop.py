"""The loop over a toy model; test_run.py has it over the real one."""

import dataclasses

import pytest
import torch
from pico_trials import pico_spec
from torch import nn

from piip.data.samples import Batch
from piip.training import loop
from piip.training.engines import build_engine
from piip.training.loop import Plan, Timer
from piip.training.optim import build_optimizer

pytestmark = pytest.mark.usefixtures("process_group")


class Toy(nn.Module):
    """Two losses, means over the images, with dropout to show whether randomness is resumed."""

    def __init__(self, dropout=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.dropout = nn.Linear(6, 3), nn.Dropout(dropout)
        self.poisoned_from = None

    def forward(self, images, _sizes, _targets):
        out = self.layer(self.dropout(images.flatten(1)))
        box = out.abs().mean()
        if self.poisoned_from is not None and images.max() >= self.poisoned_from:
            box = box * float("nan")
        return {"loss_mask": (out[:, 0] ** 2).mean(), "loss_box": box}


def toy_batches(start, *, micro_batch, accumulate):
    """Step s has images of value s, s + 1/4, ..; each micro batch in turn."""
    step = start
    while True:
        step += 1
        images = torch.stack([torch.full((3, 2, 1), step + i / 4) for i in range(micro_batch * accumulate)])
        for part in images.split(micro_batch):
            yield Batch(part, [(2, 1)] * micro_batch, [{}] * micro_batch, [])


class Recorder:
    """Runs the loop over the toy and notes what it does."""

    def __init__(self, *, accumulate=1, dropout=0.0, batch_size=4, **changes):
        self.spec = pico_spec(train__batch_size=batch_size, **changes)
        self.model = Toy(dropout)
        optimizer = build_optimizer(self.model, self.spec.optim, {})
        self.micro_batch = batch_size // accumulate
        self.engine = build_engine(
            self.spec, self.model, optimizer, micro_batch=self.micro_batch, accumulate=accumulate
        )
        self.calls, self.logged, self.timer = [], {}, Timer()

    def train(self, plan, *, start=0):
        loop.train(
            self.spec, self.engine,
            toy_batches(start, micro_batch=self.micro_batch, accumulate=self.engine.accumulate), plan,
            start=start, timer=self.timer, log=self.logged.__setitem__,
            save=lambda step: self.calls.append(("save", step)),
            evaluate=lambda step: self.calls.append(("evaluate", step)),
        )  # fmt: skip
        return self

    @property
    def weights(self):
        return torch.cat([value.flatten() for value in self.engine.model_state().values()])


def steps(n, **changes) -> Plan:
    return dataclasses.replace(Plan(num_steps=n, eval_every=n, save_every=n, log_every=1), **changes)


def test_it_saves_before_it_evaluates_and_does_both_at_the_end():
    done = Recorder().train(Plan(num_steps=7, eval_every=4, save_every=3, log_every=5))

    assert done.calls == [
        ("save", 3), ("save", 4), ("evaluate", 4), ("save", 6), ("save", 7), ("evaluate", 7),
    ]  # fmt: skip
    assert list(done.logged) == [5, 7]


def test_a_training_that_is_done_does_nothing():
    done = Recorder().train(steps(3), start=3)
    assert (done.calls, done.logged, done.timer.seconds) == ([], {}, 0.0)


def test_images_per_second_counts_images_of_all_micro_batches_over_the_time_inside_steps(monkeypatch):
    # a clock that moves by 1 s whenever it is read: each step is entered at t and left at t + 1
    ticks = iter(range(100_000))
    monkeypatch.setattr(loop.time, "perf_counter", lambda: float(next(ticks)))

    done = Recorder(accumulate=2).train(steps(6, log_every=2), start=1)

    assert {step: metrics["train/images_per_second"] for step, metrics in done.logged.items()} == {2: 4, 4: 4, 6: 4}
    assert done.timer.seconds == 5


def test_logging_saving_and_evaluating_are_not_training_time(monkeypatch):
    now = [0.0]

    def read():  # a step is entered at t and left at t + 1
        now[0] += 1.0
        return now[0]

    class Slow(list):
        def append(self, item):
            now[0] += 50.0
            super().append(item)

    class SlowToo(dict):
        def __setitem__(self, step, metrics):
            now[0] += 3.0
            super().__setitem__(step, metrics)

    monkeypatch.setattr(loop.time, "perf_counter", read)
    done = Recorder()
    done.calls, done.logged = Slow(), SlowToo()
    done.timer.seconds = 7.0  # of an earlier attempt

    done.train(steps(4, eval_every=1))

    assert len(done.calls) == 8  # four checkpoints, four evaluations
    assert len(done.logged) == 4
    assert done.timer.seconds == 7.0 + 4
    assert {metrics["train/images_per_second"] for metrics in done.logged.values()} == {4.0}


@pytest.mark.parametrize(("engine", "stage"), [("ddp", 0), *(("deepspeed", stage) for stage in range(4))])
def test_accumulating_two_micro_batches_is_a_batch_of_twice_the_size(engine, stage):
    whole = Recorder().train(steps(5))
    halves = Recorder(accumulate=2, train__engine=engine, train__zero_stage=stage).train(steps(5))

    torch.testing.assert_close(halves.weights, whole.weights, rtol=1e-5, atol=1e-6)
    for step in whole.logged:
        assert halves.logged[step]["train/loss"] == pytest.approx(whole.logged[step]["train/loss"], rel=1e-5)


def test_ranks_exchange_gradients_once_a_step_however_many_micro_batches():
    toy, exchanges = Recorder(accumulate=4), []

    def counting(_state, bucket):
        exchanges.append(1)
        future = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    toy.engine._model.register_comm_hook(None, counting)
    toy.train(steps(3))

    assert len(exchanges) == 3  # one bucket


def test_a_step_descends_the_sum_of_the_losses_at_the_rate_of_its_number():
    changes = {
        "optim__clip_norm": None,
        "optim__warmup_steps": 2,
        "optim__warmup_ratio": 0.0,
        "optim__schedule": "constant",
    }
    toy = Recorder(optim__lr=0.1, **changes)
    images = next(toy_batches(0, micro_batch=4, accumulate=1)).images
    wanted = torch.autograd.grad(sum(toy.model(images, None, None).values()), list(toy.model.parameters()))
    given, rates = [], []
    real = toy.engine.optimizer.step

    def step():
        given.append([p.grad.clone() for p in toy.model.parameters()])
        rates.append({group["lr"] for group in toy.engine.optimizer.param_groups})
        real()

    toy.engine.optimizer.step = step
    toy.train(steps(3))

    torch.testing.assert_close(given[0], list(wanted))
    assert rates == [{0.05}, {0.1}, {0.1}]  # half way through the warm-up, at its end, after it
    assert [metrics["train/lr"] for metrics in toy.logged.values()] == [0.05, 0.1, 0.1]
    for metrics in toy.logged.values():
        assert metrics["train/loss"] == pytest.approx(metrics["train/loss_mask"] + metrics["train/loss_box"])


def test_gradients_are_clipped_to_the_norm():
    # AdamW's first step does not depend on the gradient's size, so look at the gradient itself
    toy, norms = Recorder(optim__clip_norm=0.5), []
    real = toy.engine.optimizer.step

    def step():
        norms.append(torch.cat([p.grad.flatten() for p in toy.model.parameters()]).norm().item())
        real()

    toy.engine.optimizer.step = step
    toy.train(steps(2))

    assert norms == pytest.approx([0.5, 0.5], rel=1e-3)  # both were larger: images are 1 and more


def test_the_loss_is_checked_before_the_weights_change():
    toy = Recorder()
    toy.train(steps(2))
    before = toy.weights
    toy.model.poisoned_from = 3.0

    with pytest.raises(FloatingPointError, match=r"not finite at step 3: loss_mask=[\d.e+]+, loss_box=nan\. Lower"):
        toy.train(steps(5), start=2)

    torch.testing.assert_close(toy.weights, before, rtol=0, atol=0)


def test_the_losses_set_out_before_the_last_backward_pass_and_are_waited_for_after_it(monkeypatch):
    toy, said = Recorder(accumulate=2), []

    def note(holder, name):
        real = getattr(holder, name)
        monkeypatch.setattr(holder, name, lambda *given: said.append(name) or real(*given))

    note(loop.StepLosses, "_send")
    note(loop.StepLosses, "means")
    note(toy.engine, "backward")
    note(toy.engine, "step")
    toy.train(steps(1))

    assert said == ["backward", "_send", "backward", "means", "step"]


def test_ranks_draw_numbers_of_their_own(monkeypatch):
    weights = []
    for rank in (0, 1):
        monkeypatch.setattr(loop.dist, "get_rank", lambda rank=rank: rank)
        weights.append(Recorder(dropout=0.5).train(steps(1)).weights)

    assert not torch.equal(*weights)


def test_a_resumed_step_draws_the_numbers_it_would_have_drawn():
    straight = Recorder(dropout=0.5).train(steps(6))
    stopped = Recorder(dropout=0.5)
    stopped.calls = type("Dies", (list,), {"append": lambda self, item: exit(str(item))})()
    with pytest.raises(SystemExit, match=r"save.*3"):
        stopped.train(steps(6, save_every=3))

    torch.rand(17)  # somebody else draws before the training goes on
    resumed = Recorder(dropout=0.5)
    resumed.model.load_state_dict(stopped.model.state_dict())
    resumed.engine.optimizer.load_state_dict(stopped.engine.optimizer.state_dict())
    resumed.train(steps(6), start=3)

    assert torch.equal(resumed.weights, straight.weights)
    assert not torch.equal(Recorder(dropout=0.5, train__seed=1).train(steps(6)).weights, straight.weights)
    losses = [{s: m["train/loss"] for s, m in done.logged.items() if s > 3} for done in (straight, resumed)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"train.steps": 40}, Plan(40, 40, 40, 1)),
        ({"train.steps": 1100}, Plan(1100, 1100, 250, 1)),  # killed at 1099, it has lost 99 steps
        ({"train.steps": 40, "train.eval_every": 10}, Plan(40, 10, 10, 1)),
        ({"train.steps": 40, "train.eval_every": 10, "train.save_every": 5}, Plan(40, 10, 5, 1)),
        ({"train.steps": None, "train.epochs": 2}, Plan(14, 7, 7, 1)),
        ({"train.steps": None, "train.epochs": 1.5}, Plan(11, 7, 7, 1)),  # 1.5 * 7 = 10.5, rounded up
        ({"train.steps": None, "train.epochs": 0.01}, Plan(1, 7, 7, 1)),
    ],
)
def test_plans_are_in_steps(changes, expected):
    spec = pico_spec().override({"train.save_every": None} | changes)
    assert loop.plan(spec, steps_per_epoch=7) == expected
