from piip.sweeps.progress import line


def test_a_line_has_step_loss_rate_and_time_left_whatever_a_crash_cost():
    # a step each 2 s, and two minutes between the fifth and the sixth
    losses = [(step, 3.0 - step / 10, 2000 * step + (120_000 if step > 5 else 0)) for step in range(1, 11)]
    metrics = {"train/loss": losses, "train/images_per_second": [(10, 8.0, 0)], "coco/box_ap": [(5, 0.25, 0)]}

    assert line(metrics, "RUNNING", 10, 30) == "step 10/30  loss 2.000  8.0 img/s  ETA 40 s  box AP 0.250"
    assert line(metrics, "FINISHED", 30, 30) == "finished at step 30  box AP 0.250"
