"""`python -m piip.report --experiment NAME`: one page about all trials of an experiment."""

import json
import logging
import sys
import time
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from piip.home import home
from piip.reports.gather import gather
from piip.reports.html import Page, render
from piip.reports.table import table_of
from piip.reports.trials import front
from piip.tracking.store import Store

HELP = """Compare all trials of an experiment.

Prints their table and writes report.html: one file that needs no other and can
be sent by mail, with a table that sorts, AP against GFLOPs and parameters with
the Pareto front, curves and predictions. The figures lie beside it as PNG.
Reads MLflow only (MLFLOW_TRACKING_URI, or mlflow.db under PIIP_HOME), so it
runs anywhere, also while trials are still training.

examples:
  python -m piip.report --experiment sweep_resolutions_pico
  python -m piip.report --experiment sweep_resolutions_pico --out /tmp/report
  python -m piip.report --experiment sweep_resolutions_pico --json | python -c \\
      "import json, sys; print(*(t['label'] for t in json.load(sys.stdin)['trials'] if t['front']), sep='\\n')"
  MLFLOW_TRACKING_URI=http://mlflow:5000 python -m piip.report --experiment coco_mask_rcnn
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `python -m piip.report` is told."""

    experiment: str
    """Name of the MLflow experiment; a wrong one is answered with those there are."""
    out: Path | None = None
    """Folder to write to; default: reports/<experiment> under PIIP_HOME."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON document (trials, front, paths) instead of the table; logs go to stderr."""


def write_report(experiment: str, folder: Path, store: Store) -> tuple[Page, Path, list[Path]]:
    """Write report.html and the figures into `folder`.

    Returns:
        What the page says, the path of report.html and the paths of the figures on white paper.
    """
    page = gather(experiment, store, made=time.strftime("%Y-%m-%d %H:%M"))
    folder.mkdir(parents=True, exist_ok=True)
    for plot in page.plots:
        (folder / f"{plot.name}.png").write_bytes(plot.light)
        (folder / f"{plot.name}_dark.png").write_bytes(plot.dark)
    report = folder / "report.html"
    report.write_text(render(page), encoding="utf-8")
    return page, report, [folder / f"{plot.name}.png" for plot in page.plots]


def as_json(page: Page, report: Path, figures: Sequence[Path]) -> dict[str, Any]:
    """The document `--json` prints."""
    return {
        "experiment": page.experiment,
        "headline": page.headline,
        "report": str(report),
        "figures": [str(path) for path in figures],
        "front": {cost: [trial["run_id"] for trial in front(page.trials, cost)] for cost in ("gflops", "params_m")},
        "trials": list(page.trials),
        "provenance": dict(page.provenance),
    }


def main(arguments: Sequence[str] | None = None, store: Store | None = None) -> int:
    """The command line; returns the exit code."""
    options = tyro.cli(Options, prog="python -m piip.report", description=HELP, args=arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    folder = options.out or home() / "reports" / urllib.parse.quote(options.experiment, safe=" ")
    try:
        page, report, figures = write_report(options.experiment, folder, store or Store())
    except (ValueError, ConnectionError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(as_json(page, report, figures), indent=1, allow_nan=False))
        return 0
    console = Console()
    console.print(table_of(page.trials))
    console.print(page.headline, markup=False, highlight=False)
    print(f"\nreport: {report}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
