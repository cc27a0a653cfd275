import logging
import socket
import sqlite3
import threading
from collections import Counter
from types import SimpleNamespace

import pytest
from server import HangingServer, free_port
from waiting import LONG, wait_for

from piip.tracking import sender as sender_module
from piip.tracking.connection import UnreachableError
from piip.tracking.delivery import deliver
from piip.tracking.sender import Sender
from piip.tracking.store import Store
from piip.tracking.writer import Writer

KEYS = ["sweep", *(f"trial{i}" for i in range(4)), "trial", "doomed", "other", "bad", "empty", "good"]
"""Of one sweep; some tests begin a few of them only."""


@pytest.fixture
def sender(store):
    sender = Sender(KEYS)
    sender.start()
    yield sender
    sender.stop()


def rows(home) -> Counter:
    """How often each (run's key, metric, step) is in MLflow's own table."""
    with sqlite3.connect(home / "mlflow.db") as database:
        query = "select t.value, m.key, m.step from metrics m join tags t on t.run_uuid = m.run_uuid and t.key = 'piip.trial_key'"
        return Counter(database.execute(query).fetchall())


def run_keys(store: Store) -> list[str]:
    return sorted(run.tags["piip.trial_key"] for run in store.find_runs("tests"))


def test_what_is_recorded_while_it_runs_arrives(begin, store, sender, piip_home):
    begin("sweep")
    trials = [begin(f"trial{i}", parent="sweep") for i in range(3)]
    for step in range(20):
        for trial in trials:
            trial.log(step, {"loss": step / 3, "lr": 0.1})

    assert sender.flush(LONG)
    for trial in trials:
        trial.log(20, {"loss": 0.0})
        trial.finish("FINISHED")
    assert sender.flush(LONG)

    assert run_keys(store) == ["sweep", "trial0", "trial1", "trial2"]
    runs = {run.tags["piip.trial_key"]: run for run in store.find_runs("tests")}
    assert {runs[f"trial{i}"].tags["mlflow.parentRunId"] for i in range(3)} == {runs["sweep"].run_id}
    assert [runs[key].status for key in ("sweep", "trial0")] == ["RUNNING", "FINISHED"]
    assert set(rows(piip_home).values()) == {1}
    assert len(rows(piip_home)) == 3 * 41
    for trial in trials:
        told = [(s, v) for s, v, _ in store.history(runs[trial.record.trial_key].run_id, "loss")]
        assert told == trial.history("loss")


def test_it_delivers_without_being_asked(begin, store, sender):
    begin().log(1, {"loss": 1.0})

    wait_for(lambda: any(store.history(run.run_id, "loss") for run in _runs(store)))


def _runs(store):
    try:
        return store.find_runs("tests")
    except ValueError:
        return []


def test_two_senders_of_one_home_make_one_run_each(begin, store, piip_home):
    senders = [Sender(KEYS), Sender(KEYS)]
    journals = [begin(f"trial{i}", parent="sweep") for i in range(4)] + [begin("sweep")]
    for sender in senders:
        sender.start()
    for step in range(30):
        for journal in journals:
            journal.log(step, {"loss": 1.0})
    done = [sender.flush(LONG) for sender in senders]
    for sender in senders:
        sender.stop()

    assert done == [True, True]
    assert run_keys(store) == ["sweep", "trial0", "trial1", "trial2", "trial3"]
    assert set(rows(piip_home).values()) == {1}
    assert len(rows(piip_home)) == 5 * 30


def test_a_resumed_run_goes_on_in_the_same_run(begin, store, sender):
    begin(attempt="1").log(1, {"loss": 1.0})
    begin(attempt="1").finish("KILLED")
    assert sender.flush(LONG)
    assert store.find_runs("tests")[0].status == "KILLED"

    resumed = begin(attempt="2")
    resumed.log(1, {"loss": 9.0})
    resumed.log(2, {"loss": 0.5})
    assert sender.flush(LONG)

    (run,) = store.find_runs("tests")
    assert run.status == "RUNNING"
    assert [(s, v) for s, v, _ in store.history(run.run_id, "loss")] == [(1, 1.0), (2, 0.5)]


def test_a_run_deleted_in_mlflow_is_skipped_and_said_once(begin, store, sender, caplog):
    doomed, other = begin("doomed"), begin("other")
    assert sender.flush(LONG)
    run_id = next(run.run_id for run in store.find_runs("tests") if run.tags["piip.trial_key"] == "doomed")
    with store._talking() as client:
        client.delete_run(run_id)

    doomed.log(1, {"loss": 1.0})
    other.log(1, {"loss": 1.0})

    assert sender.flush(LONG)
    assert sender.flush(LONG)
    assert run_keys(store) == ["other"]
    assert caplog.text.count(f"name of doomed is skipped: run {run_id} was deleted in MLflow. Bring it back") == 1


def test_one_bad_journal_does_not_hold_up_the_others(begin, store, request, piip_home, caplog):
    bad, empty, good = begin("bad"), begin("empty"), begin("good")
    (bad.folder / "run.json").write_text("{")
    (empty.folder / "events.jsonl").unlink()
    good.log(1, {"loss": 1.0})
    sender = request.getfixturevalue("sender")  # it delivers as soon as it is there

    assert not sender.flush(LONG)

    assert run_keys(store) == ["good"]
    assert rows(piip_home) == {("good", "loss", 1): 1}
    assert "bad: not delivered: JSONDecodeError" in caplog.text
    assert "empty: not delivered: FileNotFoundError" in caplog.text


@pytest.fixture
def patience(monkeypatch) -> float:
    """Seconds that are over as soon as a sender has seen that its server is down: by its clock, which no other one moves."""
    now, seen = [0.0], Sender._server_is_down

    def then_it_is_late(self, error):
        seen(self, error)
        now[0] += 60

    monkeypatch.setattr(Sender, "_server_is_down", then_it_is_late)
    monkeypatch.setattr(sender_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return 60


def test_a_server_that_is_down_loses_nothing(begin, store, piip_home, caplog, patience):
    sender = Sender(KEYS, f"http://127.0.0.1:{free_port()}")
    journal = begin()
    sender.start()
    for step in range(10):
        journal.log(step, {"loss": step / 3})

    assert not sender.flush(patience)
    sender.stop()

    assert "connection refused" in (sender.problem or "")
    assert caplog.text.count("Training goes on") == 1
    assert deliver(journal.folder, store) == 11
    assert len(rows(piip_home)) == 10


def test_delivery_goes_on_when_the_server_is_back(begin, store, piip_home, monkeypatch, caplog, patience):
    caplog.set_level(logging.WARNING)
    down = threading.Event()
    down.set()
    log_batch = Writer.log_batch

    def failing(self, run_id, metrics, tags):
        if down.is_set():
            self._unreachable(OSError("Connection refused"))
        log_batch(self, run_id, metrics, tags)

    monkeypatch.setattr(Writer, "log_batch", failing)
    sender, journal = Sender(KEYS), begin()
    sender.start()
    journal.log(1, {"loss": 1.0})
    assert not sender.flush(patience)
    assert sender.problem
    down.clear()

    wait_for(lambda: sender.flush(patience))  # a look that began before may end yet
    sender.stop()

    assert sender.problem is None
    assert "MLflow answers again" in caplog.text
    assert rows(piip_home) == {("trial", "loss", 1): 1}


def test_who_waits_goes_on_waiting_as_long_as_something_arrives(begin, store, monkeypatch):
    now, log_batch = [0.0], Writer.log_batch

    def slow(self, run_id, metrics, tags):
        wait_for(lambda: sender._flushing)
        log_batch(self, run_id, metrics, tags)
        now[0] += 50

    monkeypatch.setattr(Writer, "log_batch", slow)
    monkeypatch.setattr(sender_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    for key in ("sweep", "trial", "other"):
        begin(key).log(1, {"loss": 1.0})
    sender = Sender(KEYS)
    sender.start()

    assert sender.flush(60)
    sender.stop()

    assert now[0] > 60


def test_a_server_that_never_answers_does_not_hold_up_the_journal(begin, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    asking = threading.Event()
    connect = socket.socket.connect

    def connects_in_its_own_thread_only(self, address):
        assert threading.current_thread().name == "piip-sender"
        asking.set()
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connects_in_its_own_thread_only)
    with HangingServer() as server:
        sender, journal = Sender(KEYS, server.uri), begin()
        sender.start()
        assert asking.wait(LONG)
        for step in range(500):  # the request is under way and will be for a minute
            journal.log(step, {"loss": 1.0})
        assert not sender.flush(0.2)
        sender.stop(timeout=0.2)

    assert len(journal.history("loss")) == 500


def test_flush_of_a_sender_that_was_not_started_is_false(store):
    assert not Sender(KEYS).flush(LONG)


def test_nothing_recorded_is_delivered_at_once(store, sender):
    assert sender.flush(LONG)


def test_journals_of_other_sweeps_are_none_of_its_business(begin, store, piip_home, caplog):
    begin("others", experiment="x" * 600).log(1, {"loss": 1.0})  # which MLflow refuses
    mine = begin("mine")
    mine.log(1, {"loss": 1.0})
    sender = Sender(["mine"])
    sender.start()

    assert sender.flush(LONG)
    sender.stop()

    assert rows(piip_home) == {("mine", "loss", 1): 1}
    assert caplog.text == ""


def test_a_run_deleted_after_its_delivery_is_said_too(begin, store, caplog):
    begin("doomed")
    deliver(begin("doomed").folder, store)
    (run,) = store.find_runs("tests")
    with store._talking() as client:
        client.delete_run(run.run_id)
    sender = Sender(["doomed"])
    sender.start()

    assert sender.flush(LONG)
    sender.stop()

    assert f"name of doomed is skipped: run {run.run_id} was deleted in MLflow" in caplog.text


def test_a_server_that_does_not_answer_is_asked_less_and_less_often_but_soon_for_who_waits(monkeypatch):
    sender, pauses = Sender(KEYS), []
    problems = iter([*["down"] * 7, None, "down", "down", None])

    def deliver_all():
        sender.problem = next(problems)
        sender._flushing = len(pauses) >= 9
        return sender_module._Pass()

    def wait(seconds):
        pauses.append(seconds)
        sender._stopping = len(pauses) == 11

    monkeypatch.setattr(sender, "_deliver_all", deliver_all)
    monkeypatch.setattr(sender._changed, "wait", wait)
    sender._run()

    assert pauses == [2, 4, 8, 16, 30, 30, 30, 1, 2, 2, 1]  # from the tenth on somebody waits in flush


def test_flush_and_stop_wake_a_sender_that_pauses(store, monkeypatch):
    monkeypatch.setattr(sender_module, "PERIOD_S", 10 * LONG)
    monkeypatch.setattr(sender_module, "FLUSH_PAUSE_S", 10 * LONG)
    sender = Sender(KEYS)
    sender.start()
    with sender._changed:
        while sender._done[1].complete is False:  # until the first look is over, and it pauses
            assert sender._changed.wait(LONG)

    assert sender.flush(LONG)
    assert not sender._flushing  # it may take its time again
    sender.stop(LONG)

    assert not sender._thread.is_alive()


def test_a_journal_that_another_process_delivers_is_waited_for(begin, store, monkeypatch):
    begin().log(1, {"loss": 1.0})
    busy = [BlockingIOError(), BlockingIOError()]
    delivered = []

    def deliver_now(folder, store, heard):
        if busy:
            raise busy.pop()
        delivered.append(folder.name)

    monkeypatch.setattr(sender_module, "deliver", deliver_now)
    sender = Sender(["trial"])

    assert [sender._deliver_all() for _ in range(3)] == [
        sender_module._Pass(complete=False), sender_module._Pass(complete=False), sender_module._Pass(),
    ]  # fmt: skip
    assert delivered == ["trial"]


def test_a_server_that_is_down_is_asked_for_one_journal_and_not_for_each(begin, store, monkeypatch):
    asked = []

    def unreachable(folder, store, heard):
        asked.append(folder.name)
        raise UnreachableError("down.")

    for key in ("trial0", "trial1"):
        begin(key)
    monkeypatch.setattr(sender_module, "deliver", unreachable)
    sender = Sender(["trial0", "trial1"])

    assert sender._deliver_all() == sender_module._Pass(complete=False)
    assert asked == ["trial0"]
    assert sender.problem == "down."


def test_a_sender_that_is_told_to_stop_begins_no_other_journal(begin, store, monkeypatch):
    sender, asked = Sender(["trial0", "trial1"]), []

    def stops(folder, store, heard):
        asked.append(folder.name)
        sender._stopping = True

    for key in ("trial0", "trial1"):
        begin(key)
    monkeypatch.setattr(sender_module, "deliver", stops)

    assert sender._deliver_all() == sender_module._Pass(complete=False)
    assert asked == ["trial0"]
