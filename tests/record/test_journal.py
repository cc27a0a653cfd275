import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from journals import begin, lines, metric_lines

import piip
from piip.record.events import read_events, read_metrics, read_status
from piip.record.journal import Fenced, Journal
from piip.record.runs import now_ms

ROOT = str(Path(piip.__file__).parent.parent)


def test_a_folder_without_a_record_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has no run"):
        Journal(tmp_path, "1")


def test_the_first_record_of_a_step_wins_across_attempts():
    folder = begin()
    Journal(folder, "1").log(7, {"loss": 1.0})

    second = Journal(folder, "2")
    second.log(7, {"loss": 9.0, "lr": 0.1})
    second.log(7, {"loss": 9.0, "lr": 0.1})

    assert second.history("loss") == [(7, 1.0)]
    assert [event["values"] for event in metric_lines(folder)] == [{"loss": 1.0}, {"lr": 0.1}]


def test_a_torn_last_line_is_cut_and_its_step_can_be_logged_again(caplog):
    folder = begin()
    Journal(folder, "1").log(1, {"loss": 1.0})
    whole = (folder / "events.jsonl").read_bytes()
    (folder / "events.jsonl").write_bytes(whole + b'{"kind": "metric", "step": 2, "val')

    assert read_metrics(folder)["loss"][-1][0] == 1  # a reader leaves it out and does not touch it
    journal = Journal(folder, "1")

    assert (folder / "events.jsonl").read_bytes() == whole
    assert "cut 34 bytes" in caplog.text
    journal.log(2, {"loss": 0.5})
    assert journal.history("loss") == [(1, 1.0), (2, 0.5)]


def test_a_handle_cuts_what_another_one_left_torn():
    folder = begin()
    first, second = Journal(folder, "1"), Journal(folder, "1")
    first.log(1, {"loss": 1.0})
    with (folder / "events.jsonl").open("ab") as file:
        file.write(b'{"torn')

    second.log(2, {"loss": 2.0})

    assert second.history("loss") == [(1, 1.0), (2, 2.0)]
    assert [event["step"] for event in metric_lines(folder)] == [1, 2]


def test_a_newer_attempt_fences_the_older():
    folder = begin()
    old = Journal(folder, "1")
    new = Journal(folder, "2")

    for write in [
        lambda: old.log(1, {"loss": 1.0}),
        lambda: old.tag({"a": "b"}),
        lambda: old.finish("FINISHED"),
        lambda: old.artifact(Path(__file__), "copy.py"),
    ]:
        with pytest.raises(Fenced, match="'1' must stop: '2' took over"):
            write()
    new.log(1, {"loss": 2.0})
    assert new.history("loss") == [(1, 2.0)]
    assert not (folder / "artifacts" / "copy.py").exists()


def test_a_name_used_again_does_not_unfence_its_first_holder():
    folder = begin()
    old = Journal(folder, "1")
    Journal(folder, "2")
    again = Journal(folder, "1")

    again.log(1, {"loss": 1.0})
    with pytest.raises(Fenced):
        old.log(2, {"loss": 1.0})


def test_handles_of_one_attempt_share_the_journal():
    folder = begin()
    worker, driver = Journal(folder, "1"), Journal(folder, "1")

    worker.log(1, {"loss": 1.0})
    driver.log(1, {"loss": 9.0})
    driver.tag({"piip.engine": "ddp"})

    assert worker.history("loss") == driver.history("loss") == [(1, 1.0)]
    assert len(metric_lines(folder)) == 1


def test_status_goes_back_to_running_when_a_killed_trial_is_resumed():
    folder = begin()
    first = Journal(folder, "1")
    assert first.status == read_status(folder) == "RUNNING"
    first.finish("KILLED")
    assert read_status(folder) == "KILLED"

    second = Journal(folder, "2")
    assert read_status(folder) == "RUNNING"
    second.finish("FINISHED")

    assert Journal(folder, "3").status == "FINISHED"
    assert [event["status"] for event in lines(folder)] == ["RUNNING", "KILLED", "RUNNING", "FINISHED"]
    with pytest.raises(ValueError, match="none of RUNNING, FINISHED"):
        second.finish("DONE")  # type: ignore[arg-type]


def test_adding_to_the_record_leaves_the_status():
    folder = begin()

    Journal(folder, "plan", running=False).log(0, {"cost/gflops": 1.5})
    assert read_status(folder) == "PENDING"
    training = Journal(folder, "1")
    training.finish("STOPPED")
    Journal(folder, "pictures", running=False).tag({"a": "b"})

    assert read_status(folder) == "STOPPED"
    training.log(1, {"loss": 1.0})  # and fences nobody off


@pytest.mark.parametrize("status", ["FAILED", "KILLED", "STOPPED"])
def test_all_but_a_finished_trial_run_again_when_they_are_opened(status):
    folder = begin()
    first = Journal(folder, "1")
    for _ in range(2):
        first.finish(status)

    assert Journal(folder, "2").status == "RUNNING"
    assert [event["status"] for event in lines(folder)] == ["RUNNING", status, "RUNNING"]


def test_what_mlflow_would_refuse_is_refused_here_and_a_step_is_a_whole_number(tmp_path):
    folder = begin()
    journal = Journal(folder, "1")
    before = lines(folder)
    (tmp_path / "a@b").write_text("")

    for write in (
        lambda: journal.log(1, {"AP@50": 1.0}),
        lambda: journal.tag({"a@b": "c"}),
        lambda: journal.artifact(tmp_path / "a@b"),
        lambda: journal.artifact(tmp_path / "a@b", "../a"),
    ):
        with pytest.raises(ValueError, match="name"):
            write()
    with pytest.raises(TypeError):
        journal.log(1.5, {"loss": 1.0})  # type: ignore[arg-type]

    assert lines(folder) == before
    assert not (folder / "artifacts").exists()


def test_an_event_has_the_time_at_which_it_was_recorded():
    folder = begin()
    before = now_ms()

    Journal(folder, "1").log(1, {"loss": 1.0})

    assert before <= read_metrics(folder)["loss"][0][2] <= now_ms()


def test_a_file_is_kept_under_its_own_name(tmp_path):
    folder = begin()
    (tmp_path / "spec.json").write_text("{}")

    Journal(folder, "1").artifact(tmp_path / "spec.json")

    assert (folder / "artifacts" / "spec.json").read_text() == "{}"


def test_tags_and_artifacts_are_recorded_when_they_change(tmp_path):
    folder = begin()
    journal = Journal(folder, "1")
    source = tmp_path / "spec.json"
    source.write_text("{}")

    for _ in range(2):
        journal.tag({"piip.engine": "deepspeed"})
        journal.artifact(source, "spec/spec.json")
    source.write_text('{"new": 1}')
    journal.artifact(source, "spec/spec.json")

    assert (folder / "artifacts" / "spec" / "spec.json").read_text() == '{"new": 1}'
    assert [event["kind"] for event in lines(folder)] == ["status", "tag", "artifact", "artifact"]
    assert list((folder / "artifacts" / "spec").iterdir()) == [folder / "artifacts" / "spec" / "spec.json"]


def test_a_full_disk_raises_and_leaves_the_journal_whole():
    folder = begin()
    journal = Journal(folder, "1")
    journal.log(1, {"loss": 1.0})
    whole = (folder / "events.jsonl").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 20, limits[1]))
    try:
        with pytest.raises(OSError, match=r"disk full|File too large"):
            journal.log(2, {"loss": 0.5})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert (folder / "events.jsonl").read_bytes() == whole
    journal.log(2, {"loss": 0.5})
    assert journal.history("loss") == [(1, 1.0), (2, 0.5)]


def _log_all_steps(folder: Path, worker: int) -> None:
    journal = Journal(folder, "shared")
    for step in range(50):
        journal.log(step, {"loss": worker + step / 100})


def test_processes_writing_the_same_steps_record_each_once():
    folder = begin()
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_log_all_steps, args=(folder, worker)) for worker in range(3)]

    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)

    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert sorted(event["step"] for event in metric_lines(folder)) == list(range(50))


def test_a_writer_killed_at_any_moment_loses_nothing_it_was_told_is_written(tmp_path):
    folder = begin()
    told = tmp_path / "told"
    program = f"""
import sys
from pathlib import Path
from piip.record.journal import Journal
journal, told = Journal(Path({str(folder)!r}), sys.argv[1]), open({str(told)!r}, "a", buffering=1)
for step in range(10_000):
    journal.log(step, {{"loss": float(sys.argv[1])}})
    told.write(f"{{step}}\\n")
"""
    for attempt in range(3):
        before = len(told.read_text().splitlines()) if told.exists() else 0
        child = subprocess.Popen([sys.executable, "-c", program, str(attempt)], env={**os.environ, "PYTHONPATH": ROOT})
        while (len(told.read_text().splitlines()) if told.exists() else 0) < before + 20:
            assert child.poll() is None
        child.send_signal(signal.SIGKILL)
        child.wait()

    Journal(folder, "last")
    steps = [event["step"] for event in metric_lines(folder)]
    assert len(steps) == len(set(steps))
    assert {int(line) for line in told.read_text().split()} <= set(steps)


crash = st.tuples(st.integers(0, 12), st.integers(1, 12), st.floats(0, 1))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(attempts=st.lists(crash, min_size=1, max_size=6))
def test_any_sequence_of_crashes_gives_each_step_once(attempts, tmp_path_factory, monkeypatch):
    """An attempt resumes at or before what is recorded, logs some steps, and dies within its last line."""
    monkeypatch.setenv("PIIP_HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.setattr(
        os, "fsync", lambda file: None
    )  # a killed process keeps what it wrote; only power loss does not
    folder = begin()
    end = 0
    for number, (back, count, torn) in enumerate(attempts):
        journal = Journal(folder, str(number))
        start = max(0, end - back)
        for step in range(start, start + count):
            journal.log(step, {"loss": number + step / 1000, "lr": 0.1})
        path = folder / "events.jsonl"
        size = path.stat().st_size
        last = size - path.read_bytes()[: size - 1].rfind(b"\n") - 1
        os.truncate(path, size - int(torn * (last - 1)))  # at most all but one byte of the last line
        end = max((event["step"] for event, _ in read_events(folder) if event["kind"] == "metric"), default=-1) + 1

    final = Journal(folder, "final")
    for step in range(end + 1):
        final.log(step, {"loss": -1.0, "lr": 0.1})

    recorded = [(name, event["step"]) for event in metric_lines(folder) for name in event["values"]]
    assert len(recorded) == len(set(recorded))
    assert {step for step, _ in final.history("loss")} == set(range(end + 1))
    assert read_metrics(folder).keys() == {"loss", "lr"}
