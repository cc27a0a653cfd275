import io
import random
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from kinds import DATA
from matplotlib.axes import Axes
from matplotlib.text import Text
from PIL import Image
from synthetic import ERROR, ranked, sweep

from piip.contracts import Score
from piip.reports import figures
from piip.reports.curves import curves, running_mean
from piip.reports.figures import png, score_against_cost
from piip.reports.resolutions import resolutions_against_score
from piip.reports.themes import DARK, LIGHT


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
    figure = score_against_cost(ranked(sweep()), "gflops")

    boxes = boxes_after_drawing(placed)
    assert {label.get_text() for label in placed} >= {"256/192/128", "192/128", "ViT-B 256", "ResNet-18 256"}
    assert len(boxes) == 8
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    (axes,) = figure.axes
    room = axes.get_window_extent()
    assert all(room.x0 <= b.x0 and b.x1 <= room.x1 + 1 and room.y0 <= b.y0 and b.y1 <= room.y1 for b in boxes)


def test_many_trials_in_a_crowd_do_not_overlap_either(placed):
    dice, base = random.Random(1), ranked(sweep(failed=False))
    trials = [
        base.trials[k % 8]
        | {"number": k + 1, "run_id": str(k), "gflops": dice.uniform(2, 2.6), "score": dice.uniform(0.4, 0.44)}
        for k in range(28)
    ]

    score_against_cost(replace(base, trials=trials), "gflops")

    boxes = boxes_after_drawing(placed)
    assert sum(a.overlaps(b) for a, b in combinations(boxes, 2)) == 0


def test_pictures_are_sharp_at_1000_pixels_and_on_their_paper():
    ranking = ranked(sweep())
    for theme, dark in ((LIGHT, False), (DARK, True)):
        with Image.open(io.BytesIO(png(score_against_cost(ranking, "params_m", theme)))) as picture:
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
    ranking = ranked(sweep(failed=False))
    wide = [t | {"gflops": 3.0**k} for k, t in enumerate(ranking.trials)]

    assert png(score_against_cost(replace(ranking, trials=ranking.trials[:1]), "gflops"))
    figure = score_against_cost(replace(ranking, trials=wide), "gflops")
    assert isinstance(figure.axes[0], Axes)
    assert figure.axes[0].get_xscale() == "log"


@pytest.mark.parametrize("costs", [[4.1] * 8, [4.1 + 1e-7 * k for k in range(8)]])
def test_axes_of_equal_costs_and_scores_say_whole_numbers(costs):
    ranking = ranked(sweep(failed=False))
    trials = [
        trial | {"gflops": cost, "score": 0.9 + 1e-9 * cost} for trial, cost in zip(ranking.trials, costs, strict=True)
    ]

    figure = score_against_cost(replace(ranking, trials=trials), "gflops")

    png(figure)
    (axes,) = figure.axes
    for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        assert axis.get_offset_text().get_text() == ""
        assert high - low > 0.1
        assert all(len(label.get_text()) <= 5 for label in axis.get_ticklabels())


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_run_of_few_steps_has_curves_to_be_seen(count):
    ranking = ranked(sweep(failed=False))
    points = [(step, 2.0) for step in range(5, 5 * count + 1, 5)]
    histories = {ranking.trials[0]["run_id"]: {"loss": points, "lr": points}}

    loss, score, lr, _ = curves(ranking, histories).axes

    for axes in (loss, lr):
        (line,) = axes.lines
        assert line.get_marker() == "o"
        assert axes.get_xlim() == (0, pytest.approx(1.04 * 5 * count))
        assert axes.get_ylim() == (0, pytest.approx(1.08 * 2))
    assert [text.get_text() for text in score.texts] == ["nothing logged"]


def test_curves_and_resolutions_draw_every_scored_trial():
    store = sweep()
    ranking = ranked(store)
    points = [(step, value) for step, value, _ in store.history(ranking.trials[0]["run_id"], ranking.score.name)]

    figure = curves(ranking, {t["run_id"]: {"score": points} for t in ranking.trials[:3]})
    bars = resolutions_against_score(ranking)

    assert len(figure.axes[1].lines) == 3
    assert len(bars.axes[1].patches) == 8


def texts(figure):
    return {text.get_text() for axes in figure.axes for text in (axes.xaxis.label, axes.yaxis.label, *titles(axes))}


def titles(axes):
    return (axes.title, axes._left_title)


@pytest.mark.parametrize("scores", [*(data.scores for data in DATA), ERROR], ids=lambda scores: scores[0].name)
def test_axes_and_titles_name_the_score_and_which_way_is_better(scores):
    ranking = ranked(sweep(scores=scores))
    label = scores[0].label
    best, better = ("lowest", "lower") if scores is ERROR else ("highest", "higher")
    histories = {t["run_id"]: {"score": [(10, 0.5)], "loss": [(10, 1.0)]} for t in ranking.trials}

    assert f"{label} ({best} of the training)" in texts(score_against_cost(ranking, "params_m"))
    assert texts(resolutions_against_score(ranking)) >= {
        f"{label}, {better} is better", f"{label} (◆ Pareto front)",
    }  # fmt: skip
    assert {f"{label} on validation images", f"{better} is better"} <= texts(curves(ranking, histories))


def test_titles_have_room():
    score = Score("toy/x", "boundary AP", "min")
    ranking = ranked(sweep(scores=(score, ERROR[1])))
    for figure in (
        curves(ranking, {t["run_id"]: {"score": [(10, 0.5)]} for t in ranking.trials}),
        resolutions_against_score(ranking),
    ):
        png(figure)
        room = figure.bbox
        for box in (text.get_window_extent() for axes in figure.axes for text in titles(axes) if text.get_text()):
            assert room.x0 <= box.x0
            assert box.x1 <= room.x1


def test_the_front_of_a_score_to_be_low_goes_down(placed):
    figure = score_against_cost(ranked(sweep(scores=ERROR)), "gflops")

    (line,) = (line for line in figure.axes[0].lines if len(line.get_xdata()) > 2)
    costs, errors = list(line.get_xdata()), list(line.get_ydata())
    assert costs == sorted(costs)
    assert errors == sorted(errors, reverse=True)
    assert errors[0] == figure.axes[0].get_ylim()[1]
    # 1.31 GFLOPs for an error of 0.362, 1.52 for 0.341: nobody else is lower
    assert errors[-1] == 0.341


def test_scores_below_zero_and_above_one_have_room():
    ranking = ranked(sweep(failed=False))
    for shift in (-100.0, 100.0):
        trials = [t | {"score": t["score"] + shift} for t in ranking.trials]
        moved = replace(ranking, trials=trials)
        low, high = score_against_cost(moved, "gflops").axes[0].get_ylim()
        assert low < min(t["score"] for t in trials) < max(t["score"] for t in trials) < high
        histories = {t["run_id"]: {"score": [(10, t["score"])]} for t in trials}
        low, high = curves(moved, histories).axes[1].get_ylim()
        assert low < min(t["score"] for t in trials) < max(t["score"] for t in trials) < high
        left, right = resolutions_against_score(moved).axes[1].get_xlim()
        assert left <= min(0, *(t["score"] for t in trials)) < right


def test_nothing_to_draw_is_said():
    ranking = ranked(sweep())
    failed = replace(ranking, trials=ranking.trials[-1:])
    for draw in (
        lambda: score_against_cost(failed, "gflops"),
        lambda: resolutions_against_score(failed),
        lambda: curves(failed, {}),
    ):
        with pytest.raises(ValueError, match=r"none of 1 trials has .*nothing to draw"):
            draw()


def test_running_mean_keeps_straight_lines_straight():
    line = [2.0 * k + 1 for k in range(20)]

    assert running_mean(line) == pytest.approx(line)
    assert running_mean([1, 0, 1, 0, 1, 0, 1, 0, 1])[4] == pytest.approx(5 / 9)
    assert running_mean([]) == []
