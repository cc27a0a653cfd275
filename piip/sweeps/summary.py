"""What a person sees when a sweep is over: the table, where the time went, the report, what to type next."""

import json
import logging
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pyarrow.parquet as pq
from rich.console import Console

from piip import home
from piip.record.events import read_tags
from piip.record.runs import read_record
from piip.record.trial import Trial
from piip.reports.build import build_report
from piip.reports.ranking import Ranking, rankings, trials_in
from piip.reports.table import number, tables
from piip.sweeps.launch import Outcome, Sweep, final_metrics
from piip.sweeps.plan import Planned
from piip.tracking.store import RunInfo, Store

log = logging.getLogger(__name__)


def print_outcome(sweep: Sweep, outcome: Outcome, *, as_json: bool) -> None:
    """Tables to stdout, or the one JSON document; last, on stderr, what becomes of trials that failed."""
    _print_results(sweep, outcome, as_json=as_json)
    if outcome.failed:
        # --fresh would begin the others anew, too
        command = "the same command without --fresh" if sweep.fresh else "the same command"
        print(f"{len(outcome.failed)} of {len(outcome.planned)} failed: {command} tries them again", file=sys.stderr)


def _print_results(sweep: Sweep, outcome: Outcome, *, as_json: bool) -> None:
    if not outcome.delivered:
        print(
            f"MLflow at {home.tracking_uri()} has not everything yet. When it is back: python -m piip.sync",
            file=sys.stderr,
        )
        _print_from_journals(sweep, outcome, as_json=as_json)
        return
    store = Store()
    # a trial that another experiment had finished already stays where it is
    experiments = {read_record(home.journal_dir(p.trial.key)).experiment for p in outcome.planned}
    keys = {p.trial.key for p in outcome.planned}
    runs = [run for name in sorted(experiments) for run in store.find_runs(name)]
    mine = [run for run in runs if run.tags.get("piip.trial_key") in keys]
    print("writing the report", file=sys.stderr)
    reports = [str(build_report(store, name)) for name in sorted(experiments)]
    ranked = rankings(mine)
    if as_json:
        print(json.dumps(_document(sweep, outcome) | {"trials": trials_in(ranked), "report": reports[0]}))
        return
    console = Console(width=max(120, Console().width))
    console.print(tables(ranked, width=100))
    _print_time(outcome)
    for report in reports:
        print(f"report:  {report}")
    print("next:")
    ui = f"{_python()} -m mlflow ui --backend-store-uri {home.tracking_uri()}"
    print(f"  {ui}      # then open {_compare_page(store, sorted(experiments)[0], mine)}")
    trials = {p.trial.key: p.trial for p in outcome.planned}
    _print_best(ranked, {run.run_id: trials[run.tags["piip.trial_key"]] for run in mine})


def _print_best(ranked: Sequence[Ranking], trials: Mapping[str, Trial]) -> None:
    """What to type next about the best trial of each score, where one was scored; `trials` by run id."""
    for ranking in ranked:
        if not ranking.scored:
            continue
        best = ranking.scored[0]
        run_id = best["run_id"][:8]
        print(
            f"  {_python()} -m piip.eval --run-id {run_id}      # score the best trial by {ranking.score.label} again"
        )
        print(f"  {_python()} -m piip.predict --run-id {run_id} {_surest(trials[best['run_id']])} -o drawn/")


def _compare_page(store: Store, experiment: str, runs: Sequence[RunInfo]) -> str:
    """Where MLflow compares the trials side by side; its first page for an experiment is of traces, not runs."""
    ids = {"runs": [run.run_id for run in runs], "experiments": [store.experiment_id(experiment)]}
    asked = urlencode({name: json.dumps(values, separators=(",", ":")) for name, values in ids.items()})
    return f"'http://127.0.0.1:5000/#/compare-runs?{asked}'"


def _surest(trial: Trial) -> str:
    """A validation image and a threshold, as piip.predict takes them, that show something however weak the network is."""
    predictions = home.journal_dir(trial.key) / "artifacts" / "predictions" / "val.parquet"
    table = pq.read_table(predictions) if predictions.is_file() else None
    if not table:
        return "YOUR_IMAGE.jpg"
    scores = table["score"].to_pylist() if "score" in table.column_names else None
    surest = max(range(len(table)), key=scores.__getitem__) if scores else 0
    image = shlex.quote(str(_shown(trial.sources["val"].images / table["file_name"][surest].as_py())))
    return f"{image} --score-threshold {min(0.5, 0.8 * scores[surest]):.2g}" if scores else image


def _python() -> Path:
    return _shown(Path(sys.executable))


def _shown(path: Path) -> Path:
    """As a person in this folder would type it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _print_from_journals(sweep: Sweep, outcome: Outcome, *, as_json: bool) -> None:
    rows = [_from_journal(p, status) for p, status in zip(outcome.planned, outcome.statuses, strict=True)]
    if as_json:
        print(json.dumps(_document(sweep, outcome) | {"trials": rows, "report": None}))
        return
    for row, planned in zip(rows, outcome.planned, strict=True):
        print(f"{row['name']}  {row['status']}  {planned.trial.score.label} {number(row['score'])}")
    _print_time(outcome)


def _from_journal(planned: Planned, status: str) -> dict[str, Any]:
    """A trial in plain values: its score, and the last of every metric."""
    metrics, name = final_metrics(planned), planned.trial.score.name
    score = metrics.get(f"best/{name}", metrics.get(name))
    return {"name": planned.trial.spec.name, "status": status, "score_name": name, "score": score, **metrics}


def _document(sweep: Sweep, outcome: Outcome) -> dict[str, object]:
    return {
        "experiment": sweep.experiment,
        "seconds": outcome.seconds,
        "share_outside_training": outcome.share_outside_training,
        "delivered": outcome.delivered,
        "failed": outcome.failed,
    }


def _print_time(outcome: Outcome) -> None:
    minutes, seconds = divmod(round(outcome.seconds), 60)
    share = outcome.share_outside_training
    spent = (
        f", {share:.0%} of it outside training steps (starting workers, evaluation, checkpoints)"
        if share is not None
        else ""
    )
    if share is None and not outcome.failed:
        spent = ", nothing was left to train"
    print(f"time:    {minutes} min {seconds:02d} s{spent}")
    for planned, status in zip(outcome.planned, outcome.statuses, strict=True):
        if status == "FAILED":
            why = read_tags(home.journal_dir(planned.trial.key)).get("piip.failure", "see the Ray logs")
            print(f"FAILED:  {planned.trial.spec.name}: {why}", file=sys.stderr)
