import re
from pathlib import Path

import pytest
from kinds import DATA
from rich.console import Console
from synthetic import ERROR, START, move, ranked, sweep

from piip.catalogue.rows import load_tables
from piip.record.scores import SCORES
from piip.reports.ranking import FEW_STEPS, rankings, too_short, trials_in
from piip.reports.table import tables
from piip.reports.trials import trials_of
from piip.tracking.store import RunInfo

ROOT = Path(__file__).parents[2]


def terminal(runs, width=80):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(tables(rankings(runs), width))
    return console.export_text()


def test_rows_are_best_first_and_failed_trials_stay():
    rows = ranked(sweep()).trials

    assert [row["number"] for row in rows] == list(range(1, 10))
    assert [row["label"] for row in rows[:4]] == [
        "PIIP-TSB 256/192/128", "PIIP-TSB 256/128/128", "PIIP-TS 256/192", "ResNet-18 256",
    ]  # fmt: skip
    failed = rows[-1]
    assert (failed["status"], failed["score"], failed["gflops"], failed["minutes"]) == ("failed", None, 6.2, None)
    assert "loss is nan" in failed["note"]


def test_a_failed_trials_reason_stands_before_its_note():
    store = sweep()
    store.runs[-1].tags["piip.note"] = "from scratch"

    note = ranked(store).trials[-1]["note"]

    assert note.startswith("FloatingPointError: loss is nan")
    assert note.endswith("; from scratch")


def test_families_are_named_as_people_name_them():
    families = {(row["family"], row["kind"]) for row in ranked(sweep()).trials}

    assert families == {("PIIP-TSB", "piip"), ("PIIP-TS", "piip"), ("ViT-B", "vit"), ("ResNet-18", "cnn")}


def test_a_backbone_of_another_kind_is_of_the_family_its_title_says():
    store = sweep()
    run = store.runs[-1]
    run.params["model.backbone.kind"], run.tags["piip.title"] = "internimage", "InternImage-T"

    assert ("InternImage-T", "other") in {(row["family"], row["kind"]) for row in ranked(store).trials}


def test_front_holds_what_no_trial_beats():
    ranking = ranked(sweep())
    rows = ranking.trials

    by_gflops = [
        "PIIP-TS 192/128",
        "PIIP-TS 256/128",
        "PIIP-TS 256/192",
        "PIIP-TSB 256/128/128",
        "PIIP-TSB 256/192/128",
    ]
    assert [row["label"] for row in ranking.front("gflops")] == by_gflops
    assert {row["label"] for row in rows if row["front"]} == set(by_gflops)
    assert [row["label"] for row in ranking.front("params_m")] == ["PIIP-TS 256/192", "PIIP-TSB 256/192/128"]


@pytest.mark.parametrize("data", DATA, ids=lambda data: data.kind)
def test_the_score_of_the_tags_ranks(data):
    store = sweep(scores=data.scores)
    first, *others = (score.name for score in data.scores)

    ranking = ranked(store)

    assert ranking.scores == data.scores
    assert [trial["score"] for trial in ranking.trials] == [
        0.452, 0.437, 0.431, 0.425, 0.418, 0.398, 0.362, 0.341, None,
    ]  # fmt: skip
    assert ranking.trials[0]["score_name"] == first
    assert ranking.trials[0]["scores"] == {first: 0.452} | dict.fromkeys(others, pytest.approx(0.452 * 0.905))
    assert ranking.trials[-1]["scores"] == dict.fromkeys([first, *others])


def test_a_score_to_be_low_ranks_the_other_way():
    ranking = ranked(sweep(scores=ERROR))

    assert [trial["score"] for trial in ranking.trials] == [
        0.341, 0.362, 0.398, 0.418, 0.425, 0.431, 0.437, 0.452, None,
    ]  # fmt: skip
    assert [trial["label"] for trial in ranking.front("gflops")] == ["PIIP-TS 192/128", "PIIP-TSB 192/128/64"]
    assert {trial["label"] for trial in ranking.trials if trial["front"]} == {"PIIP-TS 192/128", "PIIP-TSB 192/128/64"}


def test_runs_without_the_tag_are_cocos_and_rank_with_those_that_have_it():
    store = sweep()
    for run in store.runs[:4]:
        run.tags.pop(SCORES, None)

    ranking = ranked(store)

    assert len(ranking.trials) == 9
    assert ranking.trials[0]["score"] == 0.452


def test_what_is_equal_as_shown_is_a_tie_that_the_cheaper_wins():
    store = sweep()
    store.runs[3].metrics["best/coco/box_ap"] = 0.4518  # at 1.52 GFLOPs; 0.452 is the best, at 3.41

    assert [row["label"] for row in ranked(store).front("gflops")][-1] == "PIIP-TSB 192/128/64"


def test_images_per_second_are_the_mean_over_the_training_where_it_is_known():
    store = sweep()
    store.runs[1].metrics |= {"train/images_per_second": 9.5, "train/images_per_second_mean": 6.0}

    speeds = {row["run_id"]: row["images_per_second"] for row in ranked(store).trials}

    assert speeds[store.runs[1].run_id] == 6.0
    assert speeds[store.runs[2].run_id] == 8.1


def test_a_parent_is_no_trial_but_a_run_of_its_own_is():
    store = sweep()
    lonely = next(run for run in store.runs if run.name.startswith("mask_rcnn"))
    del lonely.tags["mlflow.parentRunId"]

    found = trials_of(store.runs)

    assert lonely in found
    assert len(found) == len(store.runs) - 1
    assert all(run.name != "sweep_resolutions" for run in found)


def test_look_alikes_get_the_params_that_tell_them_apart():
    store = sweep(failed=False)
    scratch = store.runs[1]
    twin = RunInfo("f" * 32, scratch.name, "pico", "FINISHED", dict(scratch.params), dict(scratch.tags), {}, START)
    for i in range(3):
        twin.params[f"model.backbone.branches.{i}.pretrained"] = "False"
    same = RunInfo("e" * 32, scratch.name, "pico", "FINISHED", dict(twin.params), dict(scratch.tags), {}, START)

    assert {"PIIP-TSB 256/192/128 pretrained", "PIIP-TSB 256/192/128 scratch"} <= {
        row["label"] for row in trials_in(rankings([*store.runs, twin]))
    }
    labels = [row["label"] for row in trials_in(rankings([*store.runs, twin, same]))]
    assert len(set(labels)) == len(labels)


def test_labels_take_as_many_params_as_tell_look_alikes_apart():
    first = sweep(failed=False).runs[1]
    runs = []
    for i, (lr, decay, steps) in enumerate([("1", "2", "50"), ("1", "2", "90"), ("3", "4", "50")]):
        params = dict(first.params) | {"optim.lr": lr, "optim.weight_decay": decay, "train.steps": steps}
        runs.append(RunInfo(str(i) * 32, first.name, "pico", "FINISHED", params, dict(first.tags), {}, START))

    labels = {row["run_id"][0]: row["label"].removeprefix("PIIP-TSB 256/192/128 ") for row in trials_in(rankings(runs))}

    assert labels["0"] == "lr=1, weight_decay=2, steps=50"
    assert labels["1"] == "lr=1, weight_decay=2, steps=90"
    assert {row["label"].removeprefix("PIIP-TSB 256/192/128 ") for row in trials_in(rankings(runs[1:]))} == {
        "lr=1, weight_decay=2",
        "lr=3, weight_decay=4",
    }


def test_trials_of_several_heads_are_called_by_them_and_fields_told_apart_within_one():
    first = sweep(failed=False).runs[1]
    heads = [
        {"model.head.kind": "mask_rcnn", "model.head.anchor_scale": "4", "train.steps": "90"},
        {"model.head.kind": "mask_rcnn", "model.head.anchor_scale": "8", "train.steps": "90"},
        {"model.head.kind": "retinanet", "model.head.anchor_scale": "2", "train.steps": "70"},
    ]
    runs = [
        RunInfo(str(i) * 32, first.name, "pico", "FINISHED", dict(first.params) | head, dict(first.tags), {}, START)
        for i, head in enumerate(heads)
    ]

    assert {row["label"].removeprefix("PIIP-TSB 256/192/128 ") for row in trials_in(rankings(runs))} == {
        "Mask R-CNN, anchor_scale=4",
        "Mask R-CNN, anchor_scale=8",
        "RetinaNet, steps=70",
    }


def test_a_figure_that_is_not_a_number_counts_as_missing():
    store = sweep()
    store.runs[1].metrics |= {"best/coco/box_ap": float("nan"), "coco/box_ap": 0.3, "cost/gflops": float("inf")}

    row = next(row for row in ranked(store).trials if row["run_id"] == store.runs[1].run_id)

    assert (row["score"], row["gflops"]) == (0.3, None)


def test_the_table_fits_80_columns_and_says_shared_things_once():
    text = terminal(sweep().runs)

    assert all(len(line) <= 80 for line in text.splitlines())
    for part in (
        "0.452",
        "12.90",
        "failed",
        "GFLOPs",
        "kernel cpp, engine deepspeed zero-0",
        "peer at equal wall time",
    ):
        assert part in text
    assert text.count("deepspeed") == 1


@pytest.mark.parametrize("width", [50, 64, 80, 100])
def test_names_scores_and_ids_stay_whole_at_any_width(width):
    store = sweep()
    store.runs[3].tags["piip.kernel"] = "reference"
    for run, twin in ((store.runs[2], store.runs[1]), (store.runs[-2], store.runs[-1])):
        run.params |= {k: v for k, v in twin.params.items() if "branches" in k} | {"optim.weight_decay": "0.0001"}

    text = terminal(store.runs, width)

    assert "…" not in text
    assert all(len(line.rstrip()) <= width for line in text.splitlines())
    assert re.search(r"0\.452 .*finished +00000000 *$", text, re.MULTILINE)
    assert re.search(r"– .*failed +99999999 *$", text, re.MULTILINE)


def test_columns_that_find_no_room_are_named():
    assert "no room for" not in terminal(sweep().runs, width=100)
    narrow = terminal(sweep().runs)

    assert "no room for peak GB, images/s" in narrow
    assert "img" not in narrow
    assert "GFLOPs" in terminal(sweep().runs, width=60)


def runs_on(*data: tuple[str, str, int | None]) -> list[RunInfo]:
    """A run on each of these: name, digest, how many images were scored at most."""
    runs = sweep(failed=False).runs[1 : 1 + len(data)]
    for run, (name, digest, limit) in zip(runs, data, strict=True):
        move([run], name=name, digest=digest, count=80)
        run.tags |= {} if limit is None else {"piip.max_eval_images": str(limit)}
    return runs


def test_only_trials_on_the_same_images_are_ranked_together():
    runs = runs_on(
        ("a", "1" * 16, None), ("b", "1" * 16, 80), ("a", "1" * 16, 50), ("a", "2" * 16, None), ("a", "2" * 16, 500)
    )

    told = {str(ranking.data): len(ranking.trials) for ranking in rankings(runs)}

    # the same files under two names are the same data, and a limit beyond the last image is none
    assert told == {"a, b (80 images)": 2, "a (the first 50 of 80 images)": 1, "a (80 images)": 2}


def test_data_that_read_the_same_are_told_apart_by_their_digests():
    runs = runs_on(("a", "1" * 16, None), ("a", "2" * 16, None))

    assert {str(r.data) for r in rankings(runs)} == {"a (80 images, digest 11111111)", "a (80 images, digest 22222222)"}


def test_what_an_earlier_version_called_custom_is_named_by_its_place():
    (run,) = runs_on(("custom", "1" * 16, None))
    run.tags |= {"data.val.annotations": "/data/birds/val.json", "data.val.images": "/data/birds/val"}

    assert str(rankings([run])[0].data) == "birds (80 images)"


def test_data_that_nobody_noted_are_said_to_be():
    run = sweep(failed=False).runs[1]
    del run.params["data.name"]

    assert str(rankings([run])[0].data) == "data that nobody noted"


def test_the_table_shows_square_brackets_as_they_are():
    store = sweep()
    store.runs[1].tags["piip.note"] = "got [bold]448[/bold], see [1]"

    assert "got [bold]448[/bold], see [1]" in terminal(store.runs, width=120)


def test_trials_with_one_note_share_its_line():
    store = sweep()
    for run in store.runs:
        run.tags["piip.note"] = "from scratch"

    assert re.search(r"#1 #2 (#\d+ )*from scratch", terminal(store.runs, width=120))


def schedule(store, **params: object) -> None:
    """Other training settings for every run, on 280 images."""
    for run in store.runs:
        run.params |= {f"train.{name}": str(value) for name, value in params.items()}
        run.tags["data.train.count"] = "280"


def test_a_table_of_short_trainings_says_that_it_ranks_nothing():
    store = sweep(failed=False)
    schedule(store, steps=94)
    store.runs[3].params["train.steps"] = "50"

    said = "too short to rank networks: 50 to 94 steps"

    assert said in map(str.strip, terminal(store.runs).splitlines())  # one line of 80 columns
    assert "too short" not in terminal(store.runs[3:4])  # alone it is compared with nothing


@pytest.mark.parametrize(
    ("params", "short"),
    [
        ({"steps": 499}, "too short to rank networks: 499 steps"),
        ({"steps": 500}, ""),
        ({"steps": None, "epochs": 7}, "too short to rank networks: 490 steps"),
        ({"steps": None, "epochs": 8}, ""),
    ],
)
def test_short_is_shorter_than_the_papers_warm_up(params, short):
    store = sweep(failed=False)
    schedule(store, **params)

    assert too_short(ranked(store).trials).startswith(short)
    assert bool(too_short(ranked(store).trials)) == bool(short)


@pytest.mark.parametrize("rows", ["sweep_resolutions", "pico_long"])
def test_of_our_own_experiments_the_demo_alone_is_short(rows):
    steps = [row.train.steps for row in load_tables(ROOT / "experiments" / f"{rows}.py")["pico"]]

    assert (max(steps) < FEW_STEPS) == (rows == "sweep_resolutions")


@pytest.mark.parametrize("runs", [[], sweep().runs[:1]])
def test_no_trials_make_an_empty_table(runs):
    assert rankings(runs) == []
    assert terminal(runs).strip() == ""
