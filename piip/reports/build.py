"""An experiment's page and figures, on disk."""

import time
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

from piip.home import home
from piip.reports.gather import gather
from piip.reports.html import render
from piip.reports.page import Page
from piip.tracking.store import Store


@dataclass(frozen=True)
class Report:
    """What was written."""

    page: Page
    path: Path
    """Where report.html is."""
    figures: list[Path]
    """On white paper; each lies beside its twin `..._dark.png`."""


def write_report(store: Store, experiment: str, folder: Path | None = None) -> Report:
    """Write report.html and its figures.

    Args:
        store: Where the runs are.
        experiment: Its name.
        folder: Where to write; default: reports/<experiment> under `home()`.

    Raises:
        ValueError: There is no such experiment, or it has no trials yet.
    """
    folder = folder or home() / "reports" / urllib.parse.quote(experiment, safe=" ")
    page = gather(experiment, store, made=time.strftime("%Y-%m-%d %H:%M"))
    folder.mkdir(parents=True, exist_ok=True)
    for plot in page.plots:
        (folder / f"{plot.name}.png").write_bytes(plot.light)
        (folder / f"{plot.name}_dark.png").write_bytes(plot.dark)
    path = folder / "report.html"
    path.write_text(render(page), encoding="utf-8")
    return Report(page, path, [folder / f"{plot.name}.png" for plot in page.plots])


def build_report(store: Store, experiment: str) -> Path:
    """Write the report to its usual place and return the path of report.html; what a sweep does at its end."""
    return write_report(store, experiment).path
