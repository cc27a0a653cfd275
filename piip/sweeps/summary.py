"""What a person sees when a sweep is over: the table, where the time went, the report, what to type next."""

import json
import logging
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlencode

import pyarrow.parquet as pq
from rich.console import Console

from piip import home
from piip.record.events import read_tags
from piip.record.trial import Trial
from piip.reports.build import build_report
from piip.reports.ranking import Ranking, rankings, trials_in
from piip.reports.table import tables
from piip.sweeps.launch import Outcome, Sweep
from piip.tracking.connection import UnreachableError
from piip.tracking.journaled import run_of
from piip.tracking.store import RunInfo, Store
from piip.tracking.writer import KEY

log = logging.getLogger(__name__)


def print_outcome(sweep: Sweep, outcome: Outcome, *, as_json: bool) -> None:
    """Tables to stdout, or the one JSON document; last, on stderr, what becomes of trials that failed."""
    _print_results(sweep, outcome, as_json=as_json)
    # --fresh would begin the others anew, too
    command = "the same command without --fresh" if sweep.fresh else "the same command"
    if outcome.interrupted:
        done = sum(status in ("FINISHED", "STOPPED") for status in outcome.statuses)
        print(
            f"interrupted: {done} of {len(outcome.planned)} trials are finished, {command} goes on with the others",
            file=sys.stderr,
        )
    elif outcome.failed:
        print(f"{len(outcome.failed)} of {len(outcome.planned)} failed: {command} tries them again", file=sys.stderr)


def _print_results(sweep: Sweep, outcome: Outcome, *, as_json: bool) -> None:
    """The table is the journals' own: it is whole whatever MLflow has, and without it."""
    store = Store()
    runs = [run_of(home.journal_dir(p.trial.key), store) for p in outcome.planned]
    ranked = rankings(runs)
    there = _in_mlflow(outcome, runs, store)
    reports = _reports(store, there)
    if as_json:
        report = reports[0] if reports else None
        print(json.dumps(_document(sweep, outcome) | {"trials": trials_in(ranked), "report": report}))
        return
    console = Console()
    console.print(tables(ranked, console.width))
    _print_time(outcome)
    for report in reports:
        print(f"report:  {report}")
    if there:
        print(f"next:\n  {_pages(store, there)}")
        trials = {p.trial.key: p.trial for p in outcome.planned}
        known = {run.run_id for run in there}
        _print_best(ranked, {run.run_id: trials[run.tags[KEY]] for run in runs if run.run_id in known})


def _reports(store: Store, there: Sequence[RunInfo]) -> list[str]:
    """Write one for each experiment that the runs are in by now."""
    if not there:
        return []
    print("writing the report", file=sys.stderr)
    try:
        return [str(build_report(store, name)) for name in sorted({run.experiment for run in there})]
    except UnreachableError as error:
        log.warning("no report: %s", error)
        return []


def _in_mlflow(outcome: Outcome, runs: Sequence[RunInfo], store: Store) -> list[RunInfo]:
    """Those of the runs that are to be seen in MLflow, as it has them: in the experiment they are in by now."""
    if outcome.delivered:
        try:
            return [found for run in runs if (found := store.active(run.run_id))]
        except UnreachableError as error:
            log.warning("%s", error)
    print(
        f"MLflow at {store.where} has not everything yet. When it is back: python -m piip.sync",
        file=sys.stderr,
    )
    return []


def _pages(store: Store, runs: Sequence[RunInfo]) -> str:
    """How to see them in MLflow: what to type where it has no server of its own, and where to look."""
    page = _compare_page(store, runs[0].experiment, runs)
    if store.uri.startswith("http"):
        return f"open '{store.where.rstrip('/')}{page}'"
    uri = shlex.quote(store.where)
    return (
        f"{_typed('mlflow ui', 'mlflow ui')} --backend-store-uri {uri}      # then open 'http://127.0.0.1:5000{page}'"
    )


def _print_best(ranked: Sequence[Ranking], trials: Mapping[str, Trial]) -> None:
    """What to type next about the best trial of each score, of those that MLflow has; `trials` by run id."""
    for ranking in ranked:
        best = next((trial for trial in ranking.scored if trial["run_id"] in trials), None)
        if not best:
            continue
        run_id, on = best["run_id"][:8], f"{ranking.score.label} on {ranking.data}"
        print(f"  {_typed('piip eval', 'piip.eval')} --run-id {run_id}      # score the best trial by {on} again")
        print(
            f"  {_typed('piip predict', 'piip.predict')} --run-id {run_id} {_surest(trials[best['run_id']])} -o drawn/"
        )


def _compare_page(store: Store, experiment: str, runs: Sequence[RunInfo]) -> str:
    """Where MLflow compares the trials side by side; its first page for an experiment is of traces, not runs."""
    ids = {"runs": [run.run_id for run in runs], "experiments": [store.experiment_id(experiment)]}
    asked = urlencode({name: json.dumps(values, separators=(",", ":")) for name, values in ids.items()})
    return f"/#/compare-runs?{asked}"


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


def _typed(command: str, module: str) -> str:
    """A command of this installation as a person types it: `piip eval`, `python -m piip.eval`, with a path where PATH has neither."""
    script = command.split()[0]
    for name, words in ((script, command), ("python", f"python -m {module}")):
        found = shutil.which(name)
        if found and Path(found).parent == Path(sys.executable).parent:
            return words
    return f"{_shown(Path(sys.executable))} -m {module}"


def _shown(path: Path) -> Path:
    """As a person in this folder would type it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _document(sweep: Sweep, outcome: Outcome) -> dict[str, object]:
    return {
        "experiment": sweep.experiment,
        "seconds": outcome.seconds,
        "share_outside_training": outcome.share_outside_training,
        "delivered": outcome.delivered,
        "failed": outcome.failed,
        "interrupted": outcome.interrupted,
    }


def _print_time(outcome: Outcome) -> None:
    minutes, seconds = divmod(round(outcome.seconds), 60)
    share = outcome.share_outside_training
    spent = (
        f", {share:.0%} of it outside training steps (starting workers, evaluation, checkpoints)"
        if share is not None
        else ""
    )
    if share is None and not outcome.failed and not outcome.interrupted:
        spent = ", nothing was left to train"
    print(f"time:    {minutes} min {seconds:02d} s{spent}")
    for planned, status in zip(outcome.planned, outcome.statuses, strict=True):
        if status == "FAILED":
            why = read_tags(home.journal_dir(planned.trial.key)).get("piip.failure", "see the Ray logs")
            print(f"FAILED:  {planned.trial.spec.name}: {why}", file=sys.stderr)
