"""Watching a journal: every line once, whatever happens between two looks."""

import json

from piip.record.events import read_metrics, read_status
from piip.record.follow import Follower
from piip.record.journal import Journal
from piip.record.runs import RunRecord, create_run


def test_looks_add_up_to_what_reading_the_whole_gives():
    folder = create_run(RunRecord("key", "key", "tests", None))
    follower = Follower(folder)
    follower.look()
    assert (follower.seen.status, follower.doing, follower.offset) == ("PENDING", "", 0)

    journal = Journal(folder, "first")
    for step in range(1, 6):
        journal.log(step, {"train/loss": 1.0 / step})
        if step % 2:
            follower.look()
    journal.doing("evaluating")
    journal.tag({"piip.engine": "ddp"})
    journal.finish("FINISHED")
    follower.look()

    assert follower.seen.status == read_status(folder) == "FINISHED"
    assert follower.seen.tags == {"piip.engine": "ddp"}
    assert follower.doing == "evaluating"
    seen = [(step, value, ms) for step, (value, ms) in follower.seen.metrics["train/loss"].items()]
    assert seen == read_metrics(folder)["train/loss"]
    assert follower.offset == (folder / "events.jsonl").stat().st_size


def test_a_torn_line_that_the_next_attempt_cuts_was_never_read():
    folder = create_run(RunRecord("key", "key", "tests", None))
    Journal(folder, "first").log(1, {"train/loss": 1.0})
    follower = Follower(folder)
    with (folder / "events.jsonl").open("ab") as events:
        events.write(json.dumps({"kind": "metric", "step": 2, "values": {"train/loss": 9.0}}).encode()[:-3])
    follower.look()

    Journal(folder, "second").log(2, {"train/loss": 0.5})
    follower.look()

    assert {step: value for step, (value, _) in follower.seen.metrics["train/loss"].items()} == {1: 1.0, 2: 0.5}
