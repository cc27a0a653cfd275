"""The benchmarks run, and their figures have the form that RESULTS.md prints; how fast anything is, no test says."""

import itertools
import json
import math
from pathlib import Path

import pytest
import torch

from piip.presets import classifier_pico, mask_rcnn_pico, pico

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[1] / "experiments" / "benchmarks"
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_an_exponent_is_found_again():
    import timing

    sizes = [1, 2, 5, 11]

    assert timing.exponent(sizes, [3 * size**1.7 for size in sizes]) == pytest.approx(1.7)
    assert math.isnan(timing.exponent([4], [1.0]))


def test_rounds_end_in_time_and_one_is_always_made(monkeypatch):
    import timing

    now, turns = [0.0], []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def a_minute():
        turns.append(1)
        now[0] += 60

    timing.interleaved({"a": a_minute, "b": a_minute}, rounds=9, minutes=7)
    several = len(turns)
    timing.interleaved({"a": a_minute}, rounds=9, minutes=0)

    assert several == 2 * 3  # each once to warm up, and in two rounds: a third would end after 8 minutes
    assert len(turns) - several == 2


@pytest.mark.parametrize("task", ["detection", "classification"])
def test_a_training_step_has_a_line_for_every_switch(task, monkeypatch):
    import forms
    import train_step

    network = pico("TB", (64, 64))
    case = {
        "detection": (mask_rcnn_pico(network, steps=1), train_step.detection_inputs(64, 64, 1, CPU)),
        "classification": (classifier_pico(network, steps=1), train_step.classification_inputs(64, (3, 11), 12, CPU)),
    }[task]
    monkeypatch.setitem(train_step.CASES, "tiny", lambda: case)

    rows = train_step.measure("tiny", 1, 1)

    assert [row["step"] for row in rows] == list(forms.forms())
    assert rows[0]["times as fast"] == 1
    for row in rows:
        assert row["difference"] < (1e-4 if "bf16" not in row["step"] else 0.1)
        assert row["times as fast"] == pytest.approx(rows[0]["ms"] / row["ms"])
        # every line does the same work; nothing beats a product of its own precision
        assert row["TFLOP/s"] * row["ms"] == pytest.approx(rows[0]["TFLOP/s"] * rows[0]["ms"])
        assert 0 < row["MFU"] < 1


def test_the_work_of_a_step_is_three_times_that_of_its_forward_pass():
    import forms
    import train_step
    from torch.utils.flop_counter import FlopCounterMode

    row = mask_rcnn_pico(pico("TB", (64, 64)), steps=1)
    step = train_step.Step(row, train_step.detection_inputs(64, 64, 1, CPU))
    with FlopCounterMode(display=False) as forward:
        step.loss(forms.Form())

    # a product has two in its backward pass, but for those of images, which want no gradient; the plain form's sampling is not counted
    assert 2.8 < step.flops() / forward.get_total_flops() < 3.05


def test_compiled_blocks_are_timed_on_a_cpu_when_asked_for_and_the_reference_comes_first():
    import forms
    import train_step

    all_, few = (train_step.chosen_forms(CPU, brief=brief, compiled=True) for brief in (False, True))

    assert list(all_)[:-2] == list(forms.forms())
    assert list(few)[:-2] == [*list(forms.forms())[:1], forms.PLAIN_FP32, list(forms.forms())[-1]]
    assert [form.speed.compile for form in few.values()] == ["off"] * 3 + ["blocks"] * 2


def test_a_unit_computes_the_same_in_every_form():
    import unit

    tiny = unit.Case((64, 96), ((6, 8), (3, 4)))

    rows = unit.measure("tiny", tiny, CPU, rounds=1, compiled=False)

    assert [(row["what"], row["precision"]) for row in rows] == list(
        itertools.product(("forward", "both"), ("fp32", "bf16"))
    )
    assert all(row["difference"] < (1e-4 if row["precision"] == "fp32" else 0.1) for row in rows)
    for row in rows:
        assert row["x plain"] == pytest.approx(row["plain ms"] / row["ours ms"])
    assert list(unit.summary(rows)) == [
        "plain / ours, fp32, forward", "plain / ours, fp32, both", "plain / ours, bf16, forward", "plain / ours, bf16, both",
    ]  # fmt: skip


def test_units_have_the_shapes_of_the_paper():
    import unit

    found = unit.cases(full=True)

    # DeiT-T, S and B; images of 1120x800 and 1568x1120 in patches of 16
    assert found["TSB b2-b3 1568x1120"] == unit.Case((192, 384), ((70, 98), (50, 70)))
    # 368 and 192 pixels
    assert found["TSB b2-b3 classification"].grids == ((23, 23), (12, 12))
    assert len(found) == 8


def test_a_backbone_gives_the_same_maps_and_gradients_in_every_form():
    import backbone

    small = backbone.Backbone("TS", 112, 1, CPU)

    rows = backbone.measure(small, rounds=1)

    assert [row["form"] for row in rows] == ["official fp32", "ours fp32", "official bf16", "ours bf16"] * 2
    for row in rows:
        assert row["difference"] < (1e-4 if "fp32" in row["form"] else 0.1)
        if "official" in row["form"]:
            assert row["x official, same precision"] == 1


def test_mpvit_written_plainly_gives_the_same_maps_and_gradients():
    import mpvit

    small = mpvit.MPViTSpec(resolution=64, channels=(16, 16, 32, 48), paths=(2, 2, 1, 1), depths=(1, 2, 1, 1))

    rows = mpvit.measure("tiny", mpvit.Case(small, (64, 96), 2, CPU), rounds=1)

    assert [row["what"] for row in rows] == ["forward", "both"]
    for row in rows:
        assert row["difference"] < 1e-4
        assert row["x plain"] == pytest.approx(row["plain ms"] / row["ours ms"])


def test_the_loader_is_compared_with_reading_and_with_a_step(tmp_path):
    import loader

    data = loader.dataset(tmp_path / "demo", 64, 8)

    rows = loader.measure(data, [1], images=8, rounds=1)
    seconds = loader.cpu_seconds(data, 4, 1)

    assert [row["what"] for row in rows] == ["plain reading", "threads 1", "processes 1", "training step"]
    assert rows[0]["x plain reading"] == rows[-1]["x training step"] == 1
    assert rows[1]["x plain reading"] == pytest.approx(rows[1]["images/s"] / rows[0]["images/s"])
    assert seconds["loader, into shared memory"] > 0
    assert seconds["loader"] > seconds["plain reading"] > 0


@pytest.mark.parametrize("masks", [False, True])
def test_evaluation_is_timed_where_its_numbers_are_pycocotools(masks):
    import evaluation

    row = evaluation.measure(6, 12, masks=masks, rounds=1)

    assert 0.05 < row["box AP"] < 0.95
    assert row["largest difference"] <= 1e-9
    assert row["x pycocotools"] == pytest.approx(row["pycocotools s"] / row["ours s"])


def test_evaluation_reports_no_time_for_other_numbers(monkeypatch):
    import evaluation

    numbers = evaluation.ours
    monkeypatch.setattr(evaluation, "ours", lambda *given: {k: v + 1e-6 for k, v in numbers(*given).items()})

    with pytest.raises(SystemExit, match="no time is worth reporting"):
        evaluation.measure(3, 4, masks=False, rounds=1)


def test_growth_follows_an_axis_until_a_limit(monkeypatch):
    import growth

    # as if time went with the 1.5th and memory with the second power of the batch
    monkeypatch.setattr(growth, "measure", lambda point, _: {"seconds": point.batch**1.5, "gb": 0.01 * point.batch**2})
    monkeypatch.setattr(growth.Point, "predicted_gb", property(lambda point: 0.011 * point.batch**2))

    until_slow = growth.follow("batch", growth.points("batch", pico=True), most_gb=9, most_seconds=20)
    until_large = growth.follow("batch", growth.points("batch", pico=True), most_gb=0.5, most_seconds=1e9)

    assert [row["at"] for row in until_slow] == [1, 2, 4, 8]  # 8 ** 1.5 = 22.6 s is the first above 20
    assert growth.exponents(until_slow) == pytest.approx({"seconds": 1.5, "GB": 2})
    assert until_slow[-1]["x first"] == pytest.approx(8**1.5)
    assert [row["at"] for row in until_large] == [1, 2, 4]  # 0.011 * 8 ** 2 = 0.7 GB is not tried
    assert growth.png(growth.draw({"batch": until_slow})).startswith(b"\x89PNG")


def test_an_axis_of_growth_ends_when_its_time_is_up(monkeypatch):
    import growth

    monkeypatch.setattr(growth, "measure", lambda point, _: {"seconds": 1.0 + 2.0 * point.batch, "gb": 1.0})
    monkeypatch.setattr(growth.Point, "predicted_gb", property(lambda point: 0.1 * point.batch))
    batches = growth.points("batch", pico=True)

    assert len(growth.follow("batch", batches, 1, 1e9, minutes=0)) == 1
    # a fixed cost of 1 s and 2 s an image, as it was measured
    assert growth.line(growth.follow("batch", batches, 1, 1e9), "seconds") == pytest.approx((1, 2, 0))


def test_rows_of_an_earlier_run_are_shown_again(tmp_path, monkeypatch, capsys):
    import growth

    rows = [{"axis": "size", "at": at, "seconds": 2 * at, "GB": 3.0, "predicted GB": 3.0} for at in (1.0, 2.0, 4.0)]
    earlier = tmp_path / "earlier.json"
    earlier.write_text(json.dumps({"rows": rows}))
    monkeypatch.setattr(
        "sys.argv", ["growth.py", "--axes", "--with", str(earlier), "--png", str(tmp_path / "g.png"), "--json"]
    )

    growth.main()

    printed = json.loads(capsys.readouterr().out)
    assert printed["rows"] == rows
    assert printed["summary"]["seconds over megapixels, exponent"] == "1.00"
    assert (tmp_path / "g.png").stat().st_size > 1000


def test_a_point_of_growth_is_measured(tmp_path):
    import growth_point

    point = growth_point.Point(letters="TB", side=64, pico=True)

    growth_point.work(0, point, 0.01, str(tmp_path))

    found = json.loads((tmp_path / "result.json").read_text())
    assert 0 < point.predicted_gb < 0.5
    assert found["seconds"] > 0
    assert 0 <= found["gb"] < 5


@pytest.mark.slow
def test_two_workers_are_processes_of_their_own():
    import growth_point

    found = growth_point.measure(growth_point.Point(letters="TB", side=64, pico=True, workers=2, ddp=True), 0.01)

    assert found["seconds"] > 0
    assert 0.01 < found["gb"] < 5
