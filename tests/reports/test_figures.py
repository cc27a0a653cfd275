import io
import random
from itertools import combinations

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.text import Text
from PIL import Image
from synthetic import sweep

from piip.reports import figures
from piip.reports.figures import ap_against_cost, curves, png, resolutions_against_ap, running_mean
from piip.reports.themes import DARK, LIGHT
from piip.reports.trials import summary


@pytest.fixture
def placed(monkeypatch):
    """The labels of the last figure."""
    made: list[Text] = []
    original = figures.place_labels
    monkeypatch.setattr(figures, "place_labels", lambda *a, **k: made.extend(original(*a, **k)) or made)
    return made


def boxes_after_drawing(labels):
    png(labels[0].figure)
    return [label.get_window_extent() for label in labels]


def test_trials_are_labelled_without_overlaps(placed):
    trials = summary(sweep().runs)

    figure = ap_against_cost(trials, "gflops")

    boxes = boxes_after_drawing(placed)
    assert {label.get_text() for label in placed} >= {"256/192/128", "192/128", "ViT-B 256", "ResNet-18 256"}
    assert len(boxes) == 8
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    (axes,) = figure.axes
    room = axes.get_window_extent()
    assert all(room.x0 <= b.x0 and b.x1 <= room.x1 + 1 and room.y0 <= b.y0 and b.y1 <= room.y1 for b in boxes)


def test_many_trials_in_a_crowd_do_not_overlap_either(placed):
    dice, base = random.Random(1), summary(sweep(failed=False).runs)
    trials = [
        base[k % 8]
        | {"number": k + 1, "run_id": str(k), "gflops": dice.uniform(2, 2.6), "box_ap": dice.uniform(0.4, 0.44)}
        for k in range(28)
    ]

    ap_against_cost(trials, "gflops")

    boxes = boxes_after_drawing(placed)
    assert sum(a.overlaps(b) for a, b in combinations(boxes, 2)) == 0


def test_pictures_are_sharp_at_1000_pixels_and_on_their_paper():
    trials = summary(sweep().runs)
    for theme, dark in ((LIGHT, False), (DARK, True)):
        with Image.open(io.BytesIO(png(ap_against_cost(trials, "params_m", theme)))) as picture:
            pixels = np.asarray(picture.convert("L"))
        assert pixels.shape[1] == 1600
        assert (np.median(pixels) < 60) == dark
        assert pixels.std() > 5


def contrast(a, b):
    def luminance(color):
        channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda t: t.name)
def test_inks_stand_out_from_their_paper(theme):
    assert contrast(theme.ink, theme.paper) > 10
    # WCAG 2.1, 1.4.11: graphics need 3
    assert all(contrast(color, theme.paper) >= 3 for color in (*theme.piip, *theme.vit, *theme.cnn))


def test_one_trial_alone_and_costs_over_a_wide_range_can_be_drawn():
    trials = summary(sweep(failed=False).runs)
    wide = [t | {"gflops": 3.0**k} for k, t in enumerate(trials)]

    assert png(ap_against_cost(trials[:1], "gflops"))
    figure = ap_against_cost(wide, "gflops")
    assert isinstance(figure.axes[0], Axes)
    assert figure.axes[0].get_xscale() == "log"


def test_curves_and_resolutions_draw_every_scored_trial():
    store = sweep()
    trials = summary(store.runs)
    points = [(step, value) for step, value, _ in store.history(trials[0]["run_id"], "coco/box_ap")]

    figure = curves(trials, {t["run_id"]: {"box_ap": points} for t in trials[:3]})
    bars = resolutions_against_ap(trials)

    assert len(figure.axes[1].lines) == 3
    assert len(bars.axes[1].patches) == 8


def test_nothing_to_draw_is_said():
    failed = summary(sweep().runs)[-1:]
    for draw in (
        lambda: ap_against_cost(failed, "gflops"),
        lambda: resolutions_against_ap(failed),
        lambda: curves(failed, {}),
    ):
        with pytest.raises(ValueError, match=r"none of 1 trials has .*nothing to draw"):
            draw()


def test_running_mean_keeps_straight_lines_straight():
    line = [2.0 * k + 1 for k in range(20)]

    assert running_mean(line) == pytest.approx(line)
    assert running_mean([1, 0, 1, 0, 1, 0, 1, 0, 1])[4] == pytest.approx(5 / 9)
    assert running_mean([]) == []
