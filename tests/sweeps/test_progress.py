"""What a person is told while trials run, by what the journals hold and the order in which it came."""

import io
import os
import socket
from dataclasses import replace

import pytest
from kinds import DATA
from tiny import ROWS

from piip.contracts import Score
from piip.counting.costs import Cost
from piip.record import follow
from piip.record.driving import driving
from piip.record.journal import Journal
from piip.record.runs import RunRecord, create_run
from piip.record.trial import Trial
from piip.sweeps.plan import Planned
from piip.sweeps.progress import Progress, State, line, news
from piip.training.loop import Plan

PLAN = Plan(num_steps=30, eval_every=10, save_every=10, log_every=1)
AP = Score("coco/box_ap", "box AP")
RUNNING = State("RUNNING", loss=2.0, images_per_second=8.0)


class Watched:
    """Trials of one row each, what they have written and what Progress says of it; its clock moves by hand."""

    def __init__(self, *gflops: float, data=None) -> None:
        self.time = 100.0
        self.out = io.StringIO()
        self.journals, self.planned = [], []
        for number, (spec, its_gflops) in enumerate(zip(ROWS["pico"], gflops, strict=False)):
            key = f"trial{number}"
            self.journals.append(Journal(create_run(RunRecord(key, key, "e", None)), attempt="plan", running=False))
            trial = Trial(spec.model_copy(update={"data": data}) if data else spec, key, {})
            self.planned.append(Planned(trial, Cost(its_gflops, 1.0, {}), "PENDING", PLAN))

    def attempt(self, number: int, name: str) -> Journal:
        """A worker begins."""
        self.journals[number] = Journal(self.journals[number].folder, attempt=name)
        return self.journals[number]

    def progress(self) -> Progress:
        self.out = io.StringIO()
        return Progress(self.planned, out=self.out, clock=lambda: self.time)

    @property
    def said(self) -> list[str]:
        """Without the time and the trial's name."""
        return [text.split("  ", 1)[1] for text in self.out.getvalue().splitlines()]


def log(journal: Journal, step: int) -> None:
    journal.log(step, {"train/loss": 2.0, "train/images_per_second": 8.0})


def test_a_line_has_step_loss_rate_and_time_left_whatever_a_crash_cost():
    # a step each 2 s, and two minutes between the fifth and the sixth
    recent = tuple((step, 2000 * step + (120_000 if step > 5 else 0)) for step in range(1, 11))
    now = replace(RUNNING, recent=recent, score=(10, 0.25))

    assert line(now, PLAN, AP) == "step 10/30  loss 2.000  8.0 img/s  ETA 40 s  box AP 0.250"
    assert line(replace(now, status="FINISHED"), PLAN, AP) == "finished at step 10  box AP 0.250"


def test_a_trial_that_evaluates_says_so():
    now = replace(RUNNING, recent=((20, 0),), score=(10, 0.25))

    assert line(now, PLAN, AP) == "step 20/30  loss 2.000  8.0 img/s  evaluating  box AP 0.250"
    # scored; one entry has no pace
    assert line(replace(now, score=(20, 0.5)), PLAN, AP) == "step 20/30  loss 2.000  8.0 img/s  box AP 0.500"


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (State("PENDING"), State("RUNNING"), ""),
        (State("PENDING"), State("RUNNING", "starting its worker"), "starting its worker"),
        (State("RUNNING", "starting ddp"), State("RUNNING", "starting ddp"), ""),
        (State("RUNNING", "starting ddp"), replace(RUNNING, doing="starting ddp", recent=((5, 0),)), "step 5/30"),
        (replace(RUNNING, recent=((5, 0),)), replace(RUNNING, recent=((5, 0),)), ""),
        (replace(RUNNING, recent=((5, 0),)), State("FAILED", recent=((5, 0),)), "failed at step 5"),
    ],
)
def test_news_are_what_moved(before, now, said):
    told = news(before, now, PLAN, AP)

    assert told.startswith(said)
    assert bool(told) == bool(said)


def test_a_trial_that_another_command_trains_is_said_once_with_who_does():
    watched = Watched(1.0)
    journal, progress = watched.attempt(0, "worker"), watched.progress()
    said = f"process {os.getpid()} on {socket.gethostname()} since "

    with driving(journal.folder, "another command"):
        progress.look()
        assert watched.said[-1].startswith(said)
        assert watched.said[-1].endswith(" trains it: waiting for that")
        log(journal, 5)
        progress.look()
        assert watched.said[-1].startswith("step 5/30")
    progress.look()
    with driving(journal.folder, ""):  # its turn
        progress.look()

    assert len(watched.said) == 2


@pytest.mark.parametrize("data", DATA, ids=lambda data: data.kind)
def test_a_line_names_the_score_of_its_data(data):
    watched = Watched(1.0, data=data)
    journal, progress = watched.attempt(0, "worker"), watched.progress()

    for step, value in ((10, 0.25), (20, 0.5)):
        log(journal, step)
        journal.log(
            step, {f"best/{data.scores[0].name}": 0.9, f"{data.scores[-1].name}_large": 0.8, data.scores[0].name: value}
        )
        progress.look()
    journal.finish("FINISHED")
    progress.look()

    label = data.scores[0].label
    assert [text.split("  sweep ETA")[0].rpartition("  ")[2] for text in watched.said] == [
        f"{label} 0.250", f"{label} 0.500", f"{label} 0.500",
    ]  # fmt: skip


def test_a_trial_says_what_it_is_at_until_it_takes_steps():
    watched = Watched(1.0)

    def seen(progress):
        for what in ("building the network", "building the network", "taking its first steps"):
            watched.journals[0].doing(what)
            progress.look()
        return watched.said

    assert seen(watched.progress()) == []  # a trial that has not begun
    watched.attempt(0, "first")
    progress = watched.progress()
    assert seen(progress) == ["building the network", "taking its first steps"]
    log(watched.journals[0], 5)
    progress.look()
    assert watched.said[-1] == "step 5/30  loss 2.000  8.0 img/s  sweep ETA 0 s"

    watched.attempt(0, "second")
    resumed = watched.progress()
    resumed.look()
    assert watched.said == []  # what an earlier command did is no news
    assert seen(resumed) == ["building the network", "taking its first steps"]


def test_the_time_of_the_sweep_is_what_is_left_by_cost_at_the_pace_so_far():
    watched = Watched(2.0, 1.0)
    dear, cheap = watched.attempt(0, "dear"), watched.attempt(1, "cheap")
    log(dear, 5)  # by a command before this one
    progress = watched.progress()
    progress.look()
    assert "sweep ETA" not in watched.out.getvalue()

    log(dear, 15)
    watched.time += 60
    progress.look()

    # 10 steps of 2 GFLOPs in a minute; 15 of 2 and 30 of 1 are left: three minutes
    assert "[01:00] 1/2 mask_rcnn_piip_tb_scratch_96_64_pico30  step 15/30" in watched.out.getvalue()
    assert watched.out.getvalue().endswith("sweep ETA 3 min\n")
    cheap.finish("FAILED")  # whose steps will not be taken
    progress.look()
    assert watched.out.getvalue().endswith("failed at step 0  sweep ETA 1 min\n")


def test_a_trial_that_failed_before_waits_for_its_turn_and_its_steps_are_still_to_do():
    watched = Watched(1.0, 1.0)
    failed, other = watched.attempt(0, "failed"), watched.attempt(1, "other")
    log(failed, 10)
    failed.doing("taking its first steps")
    failed.finish("FAILED")
    progress = watched.progress()

    log(other, 25)
    watched.time += 60
    progress.look()

    # 25 steps in a minute; 5 and 20 are left
    assert watched.said == ["step 25/30  loss 2.000  8.0 img/s  sweep ETA 1 min"]
    again = watched.attempt(0, "again")
    progress.look()
    again.doing("starting its worker")
    progress.look()
    assert watched.said[1:] == ["starting its worker  sweep ETA 1 min"]
    again.finish("FAILED")  # once more, which is news
    progress.look()
    assert watched.said[-1].startswith("failed at step 10")


def test_every_line_of_a_journal_is_read_once(monkeypatch):
    watched, read = Watched(1.0, 1.0), []
    journals = [watched.attempt(number, "worker") for number in range(2)]
    real = follow.read_events

    def counting(folder, offset):
        for event, after in real(folder, offset):
            read.append((folder.name, after))
            yield event, after

    monkeypatch.setattr(follow, "read_events", counting)
    log(journals[0], 1)
    progress = watched.progress()
    for step in range(2, 12):
        log(journals[step % 2], step)
        progress.look()
        progress.look()

    # two lines that say RUNNING, eleven steps; none of them at the same place twice
    assert len(read) == len(set(read)) == 2 + 11
    assert {name: max(after for n, after in read if n == name) for name, _ in read} == {
        journal.folder.name: (journal.folder / "events.jsonl").stat().st_size for journal in journals
    }


def test_a_line_that_is_still_being_written_is_read_when_it_is_whole():
    watched = Watched(1.0)
    journal, progress = watched.attempt(0, "worker"), watched.progress()
    log(journal, 1)
    events = journal.folder / "events.jsonl"
    whole = events.read_bytes()

    events.write_bytes(whole[:-9])
    progress.look()
    assert watched.said == []
    events.write_bytes(whole)
    progress.look()

    assert watched.said[0].startswith("step 1/30")
