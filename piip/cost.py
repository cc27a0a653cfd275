"""What networks cost, before anything is trained: parameters, FLOPs and memory, without a GPU and without data.

No row named: all published rows, ours beside the paper's figures. Rows named (or matched by a pattern): their cost part by part at
their largest input, and the predicted memory of a training step. One multiply-add (MAC) counts as one FLOP, as in the papers.

Examples:
  python -m piip.cost
  python -m piip.cost mask_rcnn_piip_tsb_1120_896_448_1x --size 1344 1120 --workers 8
  python -m piip.cost 'mask_rcnn_piip_tsb_*' --markdown
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Any

import tyro
from pydantic import Field
from rich.console import Console
from rich.table import Table

from piip.catalogue.listing import counting, entry, list_rows
from piip.catalogue.overrides import overridden
from piip.catalogue.preflight import cost_of, largest_input, memory_of
from piip.catalogue.rows import all_rows, find_row
from piip.console import run_verb
from piip.options import Count, UsageError
from piip.spec import ExperimentSpec

Side = Annotated[int, Field(ge=32)]
"""Pixels: one cell of stride 32."""


@dataclass
class Options:
    """What `python -m piip.cost` is told."""

    rows: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[ROW ...]")] = ()
    """Names of rows, or patterns with * and ?; none: all rows the papers print, as a table."""
    size: tuple[Side, Side] | None = None
    """Height and width of the padded input in pixels; not given: the largest that the row trains on."""
    workers: Count = 1
    """Workers that share a batch; the predicted memory is that of one of them."""
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Override a field of every row, e.g. --set train.zero_stage=3."""
    markdown: bool = False
    """The table of rows in Markdown."""
    json: bool = False
    """One JSON document on stdout."""


def main(options: Options) -> int:
    """Run the verb."""
    chosen = [overridden(row, options.set) for row in choose(options.rows)]
    if not options.rows or options.markdown:
        return list_rows(chosen, as_json=options.json, markdown=options.markdown, size=options.size)
    documents = [describe(spec, options) for spec in counting(chosen, quiet=options.json)]
    if options.json:
        print(json.dumps(documents))
        return 0
    for document in documents:
        show(document)
    return 0


def choose(names: Sequence[str]) -> list[ExperimentSpec]:
    """Rows by name or pattern; none given: those with a released configuration or printed figures.

    Raises:
        ValueError: No row is called that, or none matches.
    """
    if not names:
        return [row for row in all_rows().values() if row.paper]
    chosen: dict[str, ExperimentSpec] = {}
    for name in names:
        if not set(name) & set("*?["):
            chosen[name] = find_row(name)
            continue
        found = {row: spec for row, spec in all_rows().items() if fnmatchcase(row, name)}
        if not found:
            raise UsageError(f"no row matches {name!r}. All rows: python -m piip.rows")
        chosen |= found
    return list(chosen.values())


def describe(spec: ExperimentSpec, options: Options) -> dict[str, Any]:
    """All there is to say about a row's cost, as `--json` prints it."""
    size = options.size or largest_input(spec)
    parts = {name: {"gflops": g, "params_m": p} for name, (g, p) in cost_of(spec, size).parts.items()}
    memory = asdict(memory_of(spec, options.workers, size))
    images, _ = spec.train.split(options.workers)
    training = {
        "workers": options.workers, "images": images, "engine": spec.train.engine, "zero_stage": spec.train.zero_stage,
    }  # fmt: skip
    return entry(spec, size) | {"size": size, "parts": parts, "memory": memory, "training": training}


def show(document: dict[str, Any]) -> None:
    """One row as tables."""
    height, width = document["size"]
    table = Table(title=f"{document['name']} at {height} x {width}, one image, MAC = 1 FLOP")
    for column in ("part", "GFLOPs", "params M"):
        table.add_column(column, justify="left" if column == "part" else "right")
    for name, part in document["parts"].items():
        table.add_row(name, f"{part['gflops']:.2f}", f"{part['params_m']:.2f}")
    sums = {"backbone": document["backbone"]} if "backbone" not in document["parts"] else {}  # else it has no parts
    for name, part in (sums | {"whole network": document}).items():
        table.add_row(f"[bold]{name}", f"{part['gflops']:.2f}", f"{part['params_m']:.2f}")
    published, paper = document["published"], document["paper"]
    if published:
        table.add_row("published convention", f"{published['gflops']:.2f}", f"{published['params_m']:.2f}")
    if paper.get("gflops"):
        table.add_row(
            "  as printed", f"{paper['gflops']:g}", f"{paper['params_m'] or 0:g}" if paper["params_m"] else "-"
        )
    Console(width=max(100, Console().width)).print(table)
    memory, training = document["memory"], document["training"]
    shares = ", ".join(f"{name.removesuffix('_gb')} {gb:.2f}" for name, gb in memory.items() if name != "peak_gb")
    engine = f"ZeRO {training['zero_stage']}" if training["engine"] == "deepspeed" else "DDP"
    workers = "one worker" if training["workers"] == 1 else f"each of {training['workers']} workers"
    print(
        f"training memory, predicted for {workers} with {training['images']} images at once, {engine}: "
        f"{memory['peak_gb']:.2f} GB of tensors ({shares})"
    )
    print(
        "on a CPU a worker's process takes about 1.3 GB more (PyTorch, DeepSpeed, Ray): cost/peak_memory_gb of a run is of both"
    )
    if paper.get("note"):
        print(f"note: {paper['note']}")


def cli(arguments: Sequence[str] | None = None) -> int:
    """Parse and run."""
    return run_verb(Options, main, prog="python -m piip.cost", description=__doc__, arguments=arguments)


if __name__ == "__main__":
    sys.exit(cli())
