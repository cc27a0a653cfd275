import json
import os
from contextlib import suppress
from pathlib import Path

import pytest
from fakes import FakeMLflow
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from piip.durable import locked
from piip.record.journal import Journal
from piip.record.runs import RunRecord, create_run
from piip.tracking.connection import UnreachableError
from piip.tracking.delivery import deliver, pending, read_delivered
from piip.tracking.writer import METRICS_PER_BATCH


def steps_of(server: FakeMLflow, name: str) -> list[int]:
    return sorted(step for _, key, _, _, step in server.rows if key == name)


def test_a_journal_is_delivered_once(begin):
    journal, server = begin(), FakeMLflow()
    journal.log(1, {"loss": 1.0, "lr": 0.1})
    journal.tag({"piip.engine": "ddp"})
    journal.artifact(Path(__file__), "code/test.py")
    journal.finish("FINISHED")
    assert pending(journal.folder, server)

    assert deliver(journal.folder, server) == 5  # RUNNING, metrics, tag, file, FINISHED
    assert deliver(journal.folder, server) == 0
    journal.log(2, {"loss": 0.5})
    assert deliver(journal.folder, server) == 1

    assert not pending(journal.folder, server)
    assert steps_of(server, "loss") == [1, 2]
    assert server.tags["run0"] == {"piip.engine": "ddp"}
    assert server.files["run0"] == {"code/test.py"}
    assert server.statuses["run0"] == ["RUNNING", "FINISHED"]


def test_a_sweep_is_created_before_its_trial(begin):
    begin("sweep")
    trial, server = begin("a_trial", parent="sweep"), FakeMLflow()

    deliver(trial.folder, server)

    assert server.runs == {"run0": ("sweep", 1_700_000_000_000), "run1": ("a_trial", 1_700_000_000_000)}
    assert server.parents == {"run0": None, "run1": "run0"}


def test_a_trial_whose_sweep_is_not_here_is_refused(begin):
    trial = begin("trial", parent="sweep")

    with pytest.raises(ValueError, match="belongs to sweep sweep, but there is no"):
        deliver(trial.folder, FakeMLflow())


def test_each_server_is_told_everything(begin):
    journal = begin()
    journal.log(1, {"loss": 1.0})
    one, other = FakeMLflow(), FakeMLflow()
    other.uri = "fake://other"

    assert deliver(journal.folder, one) == deliver(journal.folder, other) == 2
    assert steps_of(one, "loss") == steps_of(other, "loss") == [1]


def test_a_run_that_the_server_lost_is_made_again(begin):
    journal = begin()
    journal.log(1, {"loss": 1.0})
    deliver(journal.folder, FakeMLflow())
    emptied = FakeMLflow()

    assert deliver(journal.folder, emptied) == 2
    assert steps_of(emptied, "loss") == [1]


def test_a_journal_begun_anew_is_a_new_run(begin, piip_home):
    server = FakeMLflow()
    deliver(begin().folder, server)
    anew = begin(created_ms=5)
    (anew.folder / "run.json").unlink()
    anew = begin(created_ms=5)

    deliver(anew.folder, server)

    assert list(server.runs) == ["run0", "run1"]


def test_many_metrics_go_in_several_batches_each_noted(begin):
    journal = begin()
    for step in range(5):
        journal.log(step, {f"m{i}": 1.0 for i in range(METRICS_PER_BATCH // 2)})
    # requests: ensure_run, log_batch and set_status of RUNNING, then batches of two events
    server = FakeMLflow([None, None, None, None, "before"])

    with pytest.raises(UnreachableError):
        deliver(journal.folder, server)
    assert steps_of(server, "m0") == [0, 1]
    assert deliver(journal.folder, server) == 3
    assert steps_of(server, "m0") == [0, 1, 2, 3, 4]


def test_a_missing_file_does_not_hold_up_the_rest(begin, caplog):
    journal, server = begin(), FakeMLflow()
    journal.artifact(Path(__file__), "gone.py")
    (journal.folder / "artifacts" / "gone.py").unlink()
    journal.log(1, {"loss": 1.0})

    deliver(journal.folder, server)

    assert steps_of(server, "loss") == [1]
    assert "'gone.py' is recorded, but the file is gone" in caplog.text


def test_two_senders_take_turns(begin):
    journal, server = begin(), FakeMLflow()
    deliver(journal.folder, server)
    note = next((journal.folder / "delivered").glob("*.json"))

    with locked(note.with_suffix(".lock")), pytest.raises(BlockingIOError):
        deliver(journal.folder, server)


def test_the_note_holds_no_password(begin):
    journal, server = begin(), FakeMLflow()
    server.uri = "http://me:secret@mlflow:5000"

    deliver(journal.folder, server)

    notes = [path for path in (journal.folder / "delivered").iterdir() if path.suffix == ".json"]
    assert all("secret" not in path.name + path.read_text() for path in notes)
    assert json.loads(notes[0].read_text())["run_id"] == read_delivered(journal.folder, server).run_id == "run0"


writes = st.lists(st.integers(1, 4), min_size=1, max_size=6)
faults = st.lists(st.sampled_from([None, None, "before", "after"]), max_size=40)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(writes=writes, faults=faults)
def test_any_sequence_of_faults_delivers_each_step_once(writes, faults, tmp_path_factory, monkeypatch):
    monkeypatch.setenv("PIIP_HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.setattr(
        os, "fsync", lambda file: None
    )  # faults here are of the server, not of the disk; 10 times faster
    create_run(RunRecord("sweep", "sweep", "tests", None, created_ms=1))
    folder = create_run(RunRecord("trial", "trial", "tests", "sweep", created_ms=2))
    server, step = FakeMLflow(faults), 0

    for attempt, count in enumerate(writes):
        journal = Journal(folder, str(attempt))
        for _ in range(count):
            journal.log(step, {"loss": step / 10, "lr": 0.1})
            step += 1
        journal.artifact(Path(__file__))
        journal.finish("KILLED")
        with suppress(UnreachableError):
            deliver(folder, server)
    while pending(folder, server):
        with suppress(UnreachableError):
            deliver(folder, server)

    assert sorted(server.runs.values()) == [("sweep", 1), ("trial", 2)]
    assert steps_of(server, "loss") == steps_of(server, "lr") == list(range(step))
    trial = next(run_id for run_id, (key, _) in server.runs.items() if key == "trial")
    assert server.statuses[trial][-1] == "KILLED"
    assert server.files[trial] == {Path(__file__).name}
