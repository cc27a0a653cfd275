import io

from tiny import ROWS

from piip.counting.cost import Cost
from piip.record.journal import Journal, RunRecord, create_run
from piip.record.trial import Trial
from piip.sweeps.plan import Planned
from piip.sweeps.progress import Progress, State, line
from piip.training.loop import Plan

PLAN = Plan(num_steps=30, eval_every=10, save_every=10, log_every=1)


def test_a_line_has_step_loss_rate_and_time_left_whatever_a_crash_cost():
    # a step each 2 s, and two minutes between the fifth and the sixth
    losses = [(step, 3.0 - step / 10, 2000 * step + (120_000 if step > 5 else 0)) for step in range(1, 11)]
    metrics = {"train/loss": losses, "train/images_per_second": [(10, 8.0, 0)], "coco/box_ap": [(10, 0.25, 0)]}

    assert line(State(metrics, "RUNNING"), PLAN) == "step 10/30  loss 2.000  8.0 img/s  ETA 40 s  box AP 0.250"
    assert line(State(metrics, "FINISHED"), PLAN) == "finished at step 10  box AP 0.250"


def test_a_trial_that_evaluates_says_so():
    metrics = {"train/loss": [(20, 2.0, 0)], "train/images_per_second": [(20, 8.0, 0)], "coco/box_ap": [(10, 0.25, 0)]}

    assert line(State(metrics, "RUNNING"), PLAN) == "step 20/30  loss 2.000  8.0 img/s  evaluating  box AP 0.250"
    metrics["coco/box_ap"].append((20, 0.5, 0))
    assert (
        line(State(metrics, "RUNNING"), PLAN) == "step 20/30  loss 2.000  8.0 img/s  box AP 0.500"
    )  # one entry has no pace


def test_a_trial_says_what_it_is_at_until_it_takes_steps(piip_home):
    journal = Journal(create_run(RunRecord("key", "key", "e", None)), attempt="first", running=False)
    planned = [Planned(Trial(ROWS["pico"][0], "key", {}), Cost(1.0, 1.0, {}), "PENDING", PLAN)]

    def seen(progress):
        for what in ("building the network", "building the network", "taking its first steps"):
            journal.doing(what)
            progress._look()
        return [text.split("  ", 1)[1] for text in progress._out.getvalue().splitlines()]

    assert seen(Progress(planned, out=io.StringIO())) == []  # a trial that has not begun
    journal = Journal(journal.folder, attempt="second")
    progress = Progress(planned, out=io.StringIO())
    assert seen(progress) == ["building the network", "taking its first steps"]
    log(journal, 5)
    progress._look()
    assert progress._out.getvalue().splitlines()[-1].endswith("  step 5/30  loss 2.000  8.0 img/s  sweep ETA 0 s")

    journal = Journal(journal.folder, attempt="third")
    resumed = Progress(planned, out=io.StringIO())
    resumed._look()
    assert resumed._out.getvalue() == ""  # what an earlier command did is no news
    assert seen(resumed) == ["building the network", "taking its first steps"]


def test_the_time_of_the_sweep_is_what_is_left_by_cost_at_the_pace_so_far(piip_home):
    journals, planned = [], []
    for key, spec, gflops in zip(("dear", "cheap"), ROWS["pico"], (2.0, 1.0), strict=True):
        journals.append(Journal(create_run(RunRecord(key, key, "e", None)), attempt=key))
        planned.append(Planned(Trial(spec, key, {}), Cost(gflops, 1.0, {}), "PENDING", PLAN))
    log(journals[0], 5)  # by a command before this one
    progress = Progress(planned, out=(out := io.StringIO()))
    progress._look()
    assert "sweep ETA" not in out.getvalue()

    log(journals[0], 15)
    progress._began -= 60
    progress._look()

    # 10 steps of 2 GFLOPs in a minute; 15 of 2 and 30 of 1 are left: three minutes
    assert "1/2 mask_rcnn_piip_tb_scratch_96_64_pico30  step 15/30" in out.getvalue()
    assert out.getvalue().endswith("sweep ETA 3 min\n")
    journals[1].finish("FAILED")  # whose steps will not be taken
    progress._look()
    assert out.getvalue().endswith("failed at step 0  sweep ETA 1 min\n")


def test_a_trial_that_failed_before_waits_for_its_turn_and_its_steps_are_still_to_do(piip_home):
    journals, planned = [], []
    for key, spec in zip(("failed", "other"), ROWS["pico"], strict=True):
        journals.append(Journal(create_run(RunRecord(key, key, "e", None)), attempt=key))
        planned.append(Planned(Trial(spec, key, {}), Cost(1.0, 1.0, {}), "FAILED", PLAN))
    log(journals[0], 10)
    journals[0].doing("taking its first steps")
    journals[0].finish("FAILED")
    progress = Progress(planned, out=(out := io.StringIO()))

    log(journals[1], 25)
    progress._began -= 60
    progress._look()

    # 25 steps in a minute; 5 and 20 are left
    assert [text.split("  ", 1)[1] for text in out.getvalue().splitlines()] == [
        "step 25/30  loss 2.000  8.0 img/s  sweep ETA 1 min"
    ]
    again = Journal(journals[0].folder, attempt="again")
    progress._look()
    again.doing("starting its worker")
    progress._look()
    (said,) = out.getvalue().splitlines()[1:]
    assert "  starting its worker  sweep ETA" in said
    again.finish("FAILED")  # once more, which is news
    progress._look()
    assert "failed at step 10" in out.getvalue().splitlines()[-1]


def log(journal, step):
    journal.log(step, {"train/loss": 2.0, "train/images_per_second": 8.0})
