import math
import threading

import pytest
from journals import begin, metric_lines

from piip.record.events import read_events, read_metrics
from piip.record.journal import Journal


def test_what_is_logged_is_read_back_in_order():
    folder = begin()
    journal = Journal(folder, "1")

    journal.log(1, {"train/lr": 0.5, "train/loss_mask": 2})
    journal.log(3, {"train/lr": 0.25})

    assert journal.history("train/lr") == [(1, 0.5), (3, 0.25)]
    assert [(step, value) for step, value, _ in read_metrics(folder)["train/lr"]] == [(1, 0.5), (3, 0.25)]
    assert read_metrics(folder)["train/loss_mask"][0][:2] == (1, 2.0)
    assert journal.history("no/such") == []


def test_a_damaged_line_is_skipped_and_said(caplog):
    folder = begin()
    journal = Journal(folder, "1")
    journal.log(1, {"loss": 1.0})
    with (folder / "events.jsonl").open("ab") as file:
        file.write(b"\x00\x00\n")
    journal.log(2, {"loss": 2.0})

    assert [step for step, _, _ in read_metrics(folder)["loss"]] == [1, 2]
    assert "damaged line of 3 bytes" in caplog.text


def test_a_reader_beside_a_writer_sees_whole_events_only():
    folder = begin()
    journal = Journal(folder, "1")
    done = threading.Event()
    seen: list[int] = []

    def follow():
        offset = 0
        while not done.is_set() or offset < (folder / "events.jsonl").stat().st_size:
            for event, after in read_events(folder, offset):
                offset = after
                if event["kind"] == "metric":
                    seen.append(event["step"])

    reader = threading.Thread(target=follow)
    reader.start()
    for step in range(300):
        journal.log(step, {"loss": 1.0 / (step + 1)})
    done.set()
    reader.join(60)

    assert seen == list(range(300))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_no_numbers_are_kept_as_such(value):
    folder = begin()
    Journal(folder, "1").log(1, {"loss": value})

    stored = Journal(folder, "2").history("loss")[0][1]

    assert stored == value or (math.isnan(stored) and math.isnan(value))
    assert isinstance(metric_lines(folder)[0]["values"]["loss"], str)  # strict JSON has no NaN
