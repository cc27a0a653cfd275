import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from kinds import DATA
from rich.console import Console
from synthetic import ERROR, FakeStore, move, ranked, sweep

from piip.report import cli
from piip.reports import build
from piip.reports.gather import gather, headline, place, provenance, settings
from piip.reports.html import render
from piip.reports.html_table import legend
from piip.reports.page import Chapter, Page
from piip.reports.ranking import rankings
from piip.reports.table import tables
from piip.reports.trials import trials_of
from piip.spec import Ade20kSpec


class Reader(HTMLParser):
    """Collects what a page loads, its table cells, and whether its tags are balanced."""

    void = frozenset({"meta", "link", "img", "source", "br", "wbr"})

    def __init__(self, text):
        super().__init__()
        self.open, self.addresses, self.rows, self.text = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag not in self.void:
            self.open.append(tag)
        attributes = dict(attrs)
        self.addresses += [attributes[a] for a in ("src", "srcset", "href") if a in attributes]
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self.rows[-1].append(attributes["data-value"])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The sweep's page; made once, its figures take seconds."""
    return gather("pico", sweep(tmp_path_factory.mktemp("artifacts")), made="today")


@pytest.fixture
def store():
    return sweep()


def test_the_page_stands_alone_and_holds_every_trial(whole):
    page = render(whole)

    read = Reader(page)
    assert read.open == []
    # 4 figures in two inks, 3 trials with 3 pictures each, the empty icon
    assert len(read.addresses) == 8 + 9 + 1
    assert all(address.startswith("data:") for address in read.addresses)
    assert not re.search(r"https?://|@import|url\(", page)
    rows = [row for row in read.rows if row]
    assert len(rows) == 9
    assert {len(row) for row in rows} == {13}  # kernel and engine are the same in all
    assert [row[1] for row in rows][:2] == ["PIIP-TSB 256/192/128", "PIIP-TSB 256/128/128"]
    assert float(rows[0][5]) == 0.452
    assert rows[-1][5] == "", "a missing figure sorts as missing, not as 0"


def with_trials(page, trials):
    """The page over other trials."""
    (chapter,) = page.chapters
    return replace(page, chapters=[replace(chapter, ranking=replace(chapter.ranking, trials=trials))])


def test_text_from_runs_is_text_on_the_page(whole, store):
    store.runs[1].tags["piip.note"] = "<script>alert(1)</script>"
    store.runs[1].name = "a'b\"c<d"

    read = Reader(render(with_trials(whole, ranked(store).trials)))

    assert "<script>alert(1)</script>" in read.text
    assert any("a'b\"c<d" in "".join(read.text[i : i + 3]) for i in range(len(read.text)))


def test_the_headline_answers_in_a_sentence(store):
    assert headline(ranked(store)) == (
        "PIIP-TSB 256/192/128 has the highest box AP of 9 trials on demo: 0.452 (mask AP 0.409) at 3.41 GFLOPs and 6.1 M parameters. "
        "Without box AP: 1 failed."
    )
    store.runs[:] = [store.runs[0], store.runs[-1]]
    assert headline(ranked(store)) == "No trial has box AP yet (1 failed)."


@pytest.mark.parametrize("scores", [*(data.scores for data in DATA), ERROR], ids=lambda scores: scores[0].name)
def test_headline_table_and_page_name_the_score_and_which_way_is_better(scores):
    first, *others = scores
    best, better, arrow, value = (
        ("lowest", "lower", "↓", 0.341) if scores is ERROR else ("highest", "higher", "↑", 0.452)
    )
    ranking = ranked(sweep(scores=scores))

    said = headline(ranking)
    page = "".join(Reader(render(Page("e", "today", [Chapter(ranking, said)]))).text)
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(tables([ranking], 100))
    shown = console.export_text()

    beside = ", ".join(f"{other.label} {0.905 * value:.3f}" for other in others)
    assert (
        f"has the {best} {first.label} of 9 trials on demo: {value:.3f}{f' ({beside})' if beside else ''} at " in said
    )
    assert f"Without {first.label}: 1 failed." in said
    assert said in page
    for text in (shown, page):
        assert f"no trial has a {better} {first.label} at equal or fewer GFLOPs" in text
    words = shown.split("1 ◆")[0].split()
    assert {word for score in scores for word in score.label.split()} | {arrow} <= set(words)
    figures = [f"{value:.3f}", *(f"{0.905 * value:.3f}" for _ in others)]
    assert shown.split("1 ◆")[1].split("\n")[0].split()[2 : 2 + len(scores)] == figures
    assert f"{first.label} {arrow}" in page
    assert f"{first.label} ({first.name}) is the {best} of the training." in page
    assert all(f"{other.label} ({other.name})" in page for other in others)
    assert f"buy {first.label}" in page.replace("\n", "")


def test_a_score_that_nobody_logged_has_no_column(store):
    for run in store.runs:
        run.metrics = {name: value for name, value in run.metrics.items() if "mask_ap" not in name}

    ranking = ranked(store)
    page = render(Page("pico", "today", [Chapter(ranking, headline(ranking))]))

    assert [score.name for score in ranking.scores] == ["coco/box_ap"]
    assert "mask AP" not in page + headline(ranking) + legend(ranking)
    assert {len(row) for row in Reader(page).rows if row} == {12}


SIZES = {"small": 0.1, "medium": 0.2, "large": 0.3}


def test_details_stand_beside_the_scores_where_a_trial_logged_them(store):
    runs = [run for run in store.runs if "best/coco/box_ap" in run.metrics]
    for run in runs:
        run.metrics |= {f"best/coco/box_ap_{size}": value for size, value in SIZES.items()}
    del runs[-1].metrics["best/coco/box_ap_large"]

    ranking = ranked(store)
    page = Reader(render(Page("pico", "today", [Chapter(ranking, headline(ranking))])))
    wide, narrow = (terminal(ranking, width) for width in (160, 80))

    assert [score.label for score in ranking.details] == ["box AP small", "box AP medium", "box AP large"]
    assert ranking.trials[0]["details"] == {f"coco/box_ap_{size}": value for size, value in SIZES.items()}
    text = "".join(page.text)
    places = [text.index(f"{heading} ↑") for heading in ("mask AP", "box AP small", "box AP medium", "box AP large")]
    assert places == sorted(places)
    # after number, name, status, branches, resolutions and two scores
    assert page.rows[1][7:10] == ["0.1", "0.2", "0.3"]
    assert [row[9] for row in page.rows if row].count("") == 2  # of the one that lacks it, and of the failed trial
    assert "box AP small (coco/box_ap_small)" in text
    assert "0.100 0.200 0.300" in " ".join(wide.split())
    assert all(f"box AP {size}" in narrow.partition("no room for")[2] for size in SIZES)
    assert "small" not in headline(ranking)


def terminal(ranking, width):
    """What a terminal of so many characters shows."""
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(tables([ranking], width))
    return console.export_text()


@pytest.fixture
def both() -> FakeStore:
    """An experiment of COCO's and ADE20K's scores."""
    store, other = sweep(failed=False), sweep(failed=False, scores=Ade20kSpec.scores)
    for run in other.runs[1:]:
        run.run_id = f"ade{run.run_id[3:]}"
        store.runs.append(run)
    return store


def test_trials_of_several_scores_are_ranked_apart(both):
    ade20k, coco = rankings(both.runs)

    assert [ranking.score.name for ranking in (ade20k, coco)] == ["ade20k/miou", "coco/box_ap"]
    assert [trial["number"] for trial in coco.trials] == [trial["number"] for trial in ade20k.trials] == [*range(1, 9)]
    assert {trial["score_name"] for trial in coco.trials} == {"coco/box_ap"}
    assert all(set(trial["scores"]) == {"ade20k/miou", "ade20k/acc"} for trial in ade20k.trials)

    read = Reader(render(Page("both", "today", [Chapter(r, headline(r)) for r in (ade20k, coco)])))
    text = "".join(read.text)
    assert "Trials of several scores, each ranked by its own: mIoU (ade20k/miou), box AP (coco/box_ap)." in text
    assert "Trials by mIoU" in text
    assert "Trials by box AP" in text
    assert len([row for row in read.rows if row]) == 16
    assert read.open == []


@pytest.mark.slow
def test_figures_of_several_scores_lie_side_by_side(both, tmp_path, capsys):
    both.runs[:] = [*both.runs[:3], *both.runs[-2:]]
    assert cli(["--experiment", "pico", "--out", str(tmp_path), "--json"], both) == 0

    document = json.loads(capsys.readouterr().out)
    names = {Path(path).stem for path in document["figures"]}
    kinds = {"score_against_gflops", "score_against_params", "resolutions", "curves"}
    assert names == {f"{kind}_{score}" for kind in kinds - {"curves"} for score in ("coco_box_ap", "ade20k_miou")} | {
        "curves_coco_box_ap"
    }
    assert [(r["score"]["name"], r["score"]["mode"]) for r in document["rankings"]] == [
        ("ade20k/miou", "max"), ("coco/box_ap", "max"),
    ]  # fmt: skip
    assert [trial["score_name"] for trial in document["trials"]] == 2 * ["ade20k/miou"] + 2 * ["coco/box_ap"]


def test_trials_on_other_data_are_ranked_apart_and_every_place_says_on_which(store):
    move(store.runs[5:], name="birds", digest="b" * 16, count=12)
    birds, demo = ranked = rankings(store.runs)

    assert [len(ranking.trials) for ranking in (birds, demo)] == [5, 4]
    assert [trial["number"] for trial in birds.trials] == [1, 2, 3, 4, 5]
    assert {trial["data"] for trial in birds.trials} == {"birds (12 images)"}
    assert demo.front("gflops")[-1]["score"] == 0.452  # which no trial on birds can take a place from
    assert any(trial["front"] for trial in birds.trials)

    text = "".join(Reader(render(Page("both", "today", [Chapter(r, headline(r)) for r in ranked]))).text)
    assert "Trials scored on different data are ranked apart: birds (12 images), demo." in text
    assert "several scores" not in text
    assert "Trials by box AP on birds (12 images)" in text
    assert "has the highest box AP of 5 trials on birds (12 images): 0.425" in text


@pytest.mark.slow
def test_figures_of_several_data_lie_side_by_side(store, tmp_path, capsys):
    store.runs[:] = [*store.runs[:2], store.runs[-2]]
    move(store.runs[2:], name="my birds/1", digest="b" * 16, count=12)
    assert cli(["--experiment", "pico", "--out", str(tmp_path), "--json"], store) == 0

    document = json.loads(capsys.readouterr().out)
    assert {Path(path).stem for path in document["figures"]} >= {
        "resolutions_my_birds_1_bbbbbbbb_12",
        "resolutions_demo",
    }
    assert [ranking["data"]["name"] for ranking in document["rankings"]] == ["my birds/1", "demo"]


def test_below_the_headline_stands_that_short_trainings_rank_nothing(whole):
    long = [trial | {"steps": 1200} for trial in whole.trials]

    assert "Too short to rank networks: 160 to 320 steps" in render(whole)
    assert "rank networks" not in render(with_trials(whole, long))


def test_how_it_was_made_counts_what_differs(store):
    runs = trials_of(store.runs)

    facts = dict(provenance(runs))

    assert facts["git.commit"] == "9b1d5c2e"
    assert facts["piip.kernel"] == "cpp (8 trials); none (1 trials)"
    assert not any(tag.startswith("mlflow.") or tag in ("piip.note", "piip.trial_key") for tag in facts)
    shared = dict(settings(runs))
    assert shared["optim.lr"] == "0.0005"
    assert "model.backbone.kind" not in shared


def test_a_page_shows_no_folder_of_the_machine_it_was_made_on(piip_home):
    assert place(f"sqlite:///{piip_home}/mlflow.db") == "mlflow.db"
    assert place("sqlite:////srv/shared/tracking.db") == "tracking.db"
    assert place("http://mlflow:5000") == "http://mlflow:5000"
    assert place(f"{piip_home}/data/demo/val") == "data/demo/val"


def test_a_sweep_that_has_only_failed_still_has_a_report(store):
    store.runs[:] = [store.runs[0], store.runs[-1]]

    page = render(gather("pico", store, made="today"))

    assert "No trial has box AP yet" in page
    assert "loss is nan" in page


@pytest.mark.slow
def test_the_verb_writes_the_page_and_figures_and_prints_the_table(store, piip_home, capsys):
    assert cli(["--experiment", "pico"], store) == 0

    folder = piip_home / "reports" / "pico"
    assert (folder / "report.html").stat().st_size > 100_000
    figures = {"score_against_gflops", "score_against_params", "resolutions", "curves"}
    assert {path.stem for path in folder.glob("*.png")} == figures | {f"{name}_dark" for name in figures}
    printed = capsys.readouterr().out
    assert str(folder / "report.html") in printed
    assert "has the highest box AP of 9 trials" in printed


def test_json_is_one_document_on_stdout(whole, store, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(build, "gather", lambda *_, **__: whole)

    assert cli(["--experiment", "pico", "--out", str(tmp_path / "out"), "--json"], store) == 0

    document = json.loads(capsys.readouterr().out)
    assert len(document["trials"]) == 9
    (ranking,) = document["rankings"]
    assert ranking["score"] == {"name": "coco/box_ap", "label": "box AP", "mode": "max"}
    assert ranking["front"]["gflops"][-1] == document["trials"][0]["run_id"]
    assert document["trials"][0]["score"] == 0.452
    assert document["trials"][0]["scores"] == {"coco/box_ap": 0.452, "coco/mask_ap": pytest.approx(0.452 * 0.905)}
    assert document["trials"][-1]["score"] is None
    assert document["report"] == str(tmp_path / "out" / "report.html")


def test_an_unknown_experiment_is_one_line_and_exit_1(store, capsys):
    assert cli(["--experiment", "pcio"], store) == 1

    streams = capsys.readouterr()
    assert streams.out == ""
    assert streams.err == "error: no experiment 'pcio' at sqlite:////fake/mlflow.db. There are: pico\n"


def test_an_experiment_without_trials_says_so(store, capsys):
    store.runs[:] = store.runs[:1]

    assert cli(["--experiment", "pico"], store) == 1
    assert "has no trial yet (1 runs" in capsys.readouterr().err


def test_help_teaches_with_examples(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli(["--help"])

    assert stopped.value.code == 0
    assert "python -m piip.report --experiment sweep_resolutions_pico --json" in capsys.readouterr().out
