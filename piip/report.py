"""Compare all trials of an experiment: table, figures and predictions on one HTML page."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console

from piip.console import run_verb
from piip.options import ExperimentName, OutFolder

if TYPE_CHECKING:
    from piip.reports.build import Report
    from piip.tracking.store import Store

HELP = """Compare all trials of an experiment.

Prints their table and writes report.html: one file that needs no other and can
be sent by mail, with a table that sorts, score against GFLOPs and parameters
with the Pareto front, curves and predictions. The figures lie beside it as PNG.
What the score is, the data say; trials of several scores, or scored on
different data, are ranked apart.
Reads MLflow only (MLFLOW_TRACKING_URI, or mlflow.db under PIIP_HOME), so it
runs anywhere, also while trials are still training.

Examples:
  python -m piip.report --experiment sweep_resolutions_pico
  python -m piip.report --experiment sweep_resolutions_pico --out /tmp/report
  python -m piip.report --experiment sweep_resolutions_pico --json | python -c \\
      "import json, sys; print(*(t['label'] for t in json.load(sys.stdin)['trials'] if t['front']), sep='\\n')"
  MLFLOW_TRACKING_URI=http://mlflow:5000 python -m piip.report --experiment coco_mask_rcnn
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `python -m piip.report` is told."""

    experiment: ExperimentName
    """Name of the MLflow experiment; a wrong one is answered with those there are."""
    out: OutFolder | None = None
    """Folder to write to; not given: reports/<experiment> under PIIP_HOME."""
    json: bool = False
    """Print one JSON document (trials, rankings, paths) instead of the table; logs go to stderr."""


def as_json(report: "Report") -> dict[str, Any]:
    """The document `--json` prints."""
    page = report.page
    return {
        "experiment": page.experiment,
        "report": str(report.path),
        "figures": [str(path) for path in report.figures],
        "rankings": [
            {
                "score": asdict(chapter.ranking.score),
                "data": asdict(chapter.ranking.data),
                "headline": chapter.headline,
                "front": {
                    cost: [trial["run_id"] for trial in chapter.ranking.front(cost)] for cost in ("gflops", "params_m")
                },
            }
            for chapter in page.chapters
        ],
        "trials": page.trials,
        "provenance": dict(page.provenance),
    }


def cli(arguments: Sequence[str] | None = None, store: "Store | None" = None) -> int:
    """Parse and run; returns the exit code."""
    return run_verb(
        Options,
        lambda options: _report(options, store),
        prog="python -m piip.report",
        description=HELP,
        arguments=arguments,
    )


def _report(options: Options, store: "Store | None") -> int:
    # matplotlib and MLflow: --help does not wait for them
    from piip.reports.build import write_report
    from piip.reports.table import table_of
    from piip.tracking.store import Store

    report = write_report(store or Store(), options.experiment, options.out)
    if options.json:
        print(json.dumps(as_json(report), indent=1, allow_nan=False))
        return 0
    console = Console()
    for chapter in report.page.chapters:
        console.print(table_of(chapter.ranking, console.width))
        console.print(chapter.headline, markup=False, highlight=False)
        print()
    print(f"report: {report.path}")
    return 0


if __name__ == "__main__":
    sys.exit(cli())
