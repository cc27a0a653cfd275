import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from synthetic import sweep

from piip.report import cli
from piip.reports import build
from piip.reports.gather import gather, headline, place, provenance, settings
from piip.reports.html import render
from piip.reports.trials import summary, trials_of


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
    assert {len(row) for row in rows} == {15}
    assert [row[1] for row in rows][:2] == ["PIIP-TSB 256/192/128", "PIIP-TSB 256/128/128"]
    assert float(rows[0][5]) == 0.452
    assert rows[-1][5] == "", "a missing figure sorts as missing, not as 0"


def test_text_from_runs_is_text_on_the_page(whole, store):
    store.runs[1].tags["piip.note"] = "<script>alert(1)</script>"
    store.runs[1].name = "a'b\"c<d"

    read = Reader(render(replace(whole, trials=summary(store.runs))))

    assert "<script>alert(1)</script>" in read.text
    assert any("a'b\"c<d" in "".join(read.text[i : i + 3]) for i in range(len(read.text)))


def test_the_headline_answers_in_a_sentence(store):
    assert headline(summary(store.runs)) == (
        "PIIP-TSB 256/192/128 is the best of 9 trials: box AP 0.452 (mask AP 0.409) at 3.41 GFLOPs and 6.1 M parameters. "
        "Without a box AP: 1 failed."
    )
    assert headline(summary([store.runs[0], store.runs[-1]])) == "No trial has a box AP yet (1 failed)."


def test_below_the_headline_stands_that_short_trainings_rank_nothing(whole):
    long = [{**trial, "steps": 1200} for trial in whole.trials]

    assert "Too short to rank networks: 160 to 320 steps" in render(whole)
    assert "rank networks" not in render(replace(whole, trials=long))


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

    assert "No trial has a box AP yet" in page
    assert "loss is nan" in page


@pytest.mark.slow
def test_the_verb_writes_the_page_and_figures_and_prints_the_table(store, piip_home, capsys):
    assert cli(["--experiment", "pico"], store) == 0

    folder = piip_home / "reports" / "pico"
    assert (folder / "report.html").stat().st_size > 100_000
    figures = {"ap_against_gflops", "ap_against_params", "resolutions", "curves"}
    assert {path.stem for path in folder.glob("*.png")} == figures | {f"{name}_dark" for name in figures}
    printed = capsys.readouterr().out
    assert str(folder / "report.html") in printed
    assert "is the best of 9 trials" in printed


def test_json_is_one_document_on_stdout(whole, store, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(build, "gather", lambda *_, **__: whole)

    assert cli(["--experiment", "pico", "--out", str(tmp_path / "out"), "--json"], store) == 0

    document = json.loads(capsys.readouterr().out)
    assert len(document["trials"]) == 9
    assert document["front"]["gflops"][-1] == document["trials"][0]["run_id"]
    assert document["trials"][-1]["box_ap"] is None
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
