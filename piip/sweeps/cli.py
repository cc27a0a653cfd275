"""The command line every file of experiments/ has."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from piip import home
from piip.catalogue.listing import list_rows
from piip.catalogue.preflight import check_batch, check_device, check_trainable, over_budget, sources_of
from piip.console import run_verb
from piip.data.sources import Source
from piip.spec import ExperimentSpec

Rows = Mapping[str, Sequence[ExperimentSpec]]
"""Scale (`pico`, `coco`; `ade20k` and `imagenet` for other tasks) -> its rows."""


@dataclass
class Options:
    """Train the rows of an experiment on Ray and compare them in MLflow; a repeated command continues where it stopped."""

    rows: tyro.conf.Positional[tuple[str, ...]] = ()
    """Names of the rows to run; none: all of them (see --list)."""
    scale: Literal["pico", "coco", "ade20k", "imagenet"] | None = None
    """pico: networks and made-up data that fit two CPU cores. coco: the paper's networks on COCO ($PIIP_DATA/coco).
    Not given: coco where that data exists, else pico."""
    list: bool = False
    """Print the rows with their cost and the paper's figures, and start nothing."""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Override a field of every row, e.g. --set optim.lr=3e-4 --set model.backbone.branches.0.resolution=320."""
    experiment: str | None = None
    """MLflow experiment; default: the file's name and the scale."""
    workers: int = 1
    """Ray Train workers per trial; the global batch size stays the same."""
    cpus_per_worker: int = 1
    """Threads of a worker; as many load images ahead."""
    gpus_per_worker: int = 0
    """0 trains on the CPU; 1 for a GPU cluster."""
    concurrent: int | None = None
    """Trials at once; default: as many as fit."""
    asha: bool = False
    """Stop the weak half at each evaluation (needs --set train.eval_every=...)."""
    fresh: bool = False
    """Train again what is finished already."""
    max_gflops: float | None = None
    """Refuse rows whose whole network costs more, before anything starts; --list leaves them out."""
    max_memory_gb: float | None = None
    """Refuse rows whose training is predicted to take more on a worker; --list leaves them out."""
    max_eval_images: int | None = None
    """Score on the first so many validation images only."""
    train_annotations: Path | None = None
    """Your own data: COCO-format JSON for training ..."""
    train_images: Path | None = None
    """... and the folder its images are in; both for validation too."""
    val_annotations: Path | None = None
    val_images: Path | None = None
    json: bool = False
    """One JSON document on stdout instead of tables; logs go to stderr."""


def main(
    rows: Rows, *, experiment: str, description: str, prog: str | None = None, arguments: Sequence[str] | None = None
) -> None:
    """Run an experiment file's command line; exits non-zero when something failed."""
    sys.exit(
        run_verb(
            Options,
            lambda options: _main(rows, experiment, options),
            prog=prog,
            description=description,
            arguments=arguments,
        )
    )


def _main(rows: Rows, experiment: str, options: Options) -> int:
    place_home()
    scale, why = choose_scale(rows, options.scale, own_data=bool(custom_sources(options)))
    specs = select(rows[scale], options)
    print(f"scale {scale}: {why}", file=sys.stderr)
    check_device(specs, options.gpus_per_worker)
    over = over_budget(
        specs, max_gflops=options.max_gflops, max_memory_gb=options.max_memory_gb, workers=options.workers
    )
    if options.list:
        return list_within(specs, over, as_json=options.json)
    if over:
        raise ValueError(f"{'; '.join(over.values())}. Name the rows within the budget (see --list), or raise it.")
    check_trainable(specs)
    custom = custom_sources(options)
    for spec in specs:
        check_batch(spec, options.workers)
        if spec.data.name != "demo":  # which is made below
            sources_of(spec, custom)
    # Ray and PyTorch from here on: neither --help nor a wrong name, number or path waits for them
    from piip.data.demo.make import ensure_demo
    from piip.sweeps.launch import Sweep, run_sweep
    from piip.sweeps.resources import Resources
    from piip.sweeps.summary import print_outcome

    if any(spec.data.name == "demo" for spec in specs):
        ensure_demo(home.home() / "data" / "demo")
    sweep = Sweep(
        specs, options.experiment or f"{experiment}_{scale}",
        resources=Resources(options.workers, options.cpus_per_worker, options.gpus_per_worker),
        concurrent=options.concurrent, asha=options.asha, fresh=options.fresh,
        max_eval_images=options.max_eval_images, custom=custom,
    )  # fmt: skip
    # Ray tells of workers that died on stdout, which is for results
    with redirect_stdout(sys.stderr):
        outcome = run_sweep(sweep)
    print_outcome(sweep, outcome, as_json=options.json)
    return 1 if outcome.failed else 0


def place_home() -> None:
    """Keep what a submitted job writes: Ray deletes the copy of the checkout that a job runs in."""
    if "PIIP_HOME" not in os.environ and "runtime_resources" in home.home().parts:
        os.environ["PIIP_HOME"] = str(Path.home() / "piip_runs")
        print(f"PIIP_HOME is not set; this job writes to {home.home()}", file=sys.stderr)


def choose_scale(rows: Rows, given: str | None, *, own_data: bool = False) -> tuple[str, str]:
    """The scale to run and why; `own_data`: all four paths of the user's own files are given."""
    if given:
        if given not in rows:
            raise ValueError(f"this experiment has no scale {given!r}, only {', '.join(rows)}")
        return given, "as asked"
    coco = home.data_root() / "coco"
    if "coco" in rows and coco.is_dir():
        return "coco", f"{coco} is there"
    if "pico" in rows:
        if own_data:
            return "pico", "small networks, on your own data (--scale coco takes the paper's)"
        return "pico", f"no COCO at {coco}; data is made here (--scale coco and PIIP_DATA change that)"
    return next(iter(rows)), "the only one here"


def select(rows: Sequence[ExperimentSpec], options: Options) -> list[ExperimentSpec]:
    """The rows named on the command line, with its overrides and data."""
    by_name = {row.name: row for row in rows}
    for name in options.rows:
        if name not in by_name:
            close = get_close_matches(name, by_name, n=1, cutoff=0.0)
            raise ValueError(f"no row {name!r}. Nearest: {close[0]!r}. All rows: --list")
    changes = dict(map(parse_override, options.set))
    if custom_sources(options):
        changes["data.name"] = "custom"
    return [by_name[name].override(changes) for name in options.rows or by_name]


def list_within(specs: Sequence[ExperimentSpec], over: Mapping[str, str], *, as_json: bool) -> int:
    """Print the rows but for those over the budget, which a sweep would refuse; these are said on stderr, with the reason."""
    for reason in over.values():
        print(f"left out: {reason}", file=sys.stderr)
    if over:
        print(f"left out: {len(over)} of {len(specs)} rows; asked to train, they are refused", file=sys.stderr)
    return list_rows([spec for spec in specs if spec.name not in over], as_json=as_json)


def parse_override(text: str) -> tuple[str, Any]:
    """`optim.lr=3e-4` -> ("optim.lr", 0.0003); what is no JSON value is taken as a word."""
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--set takes NAME=VALUE, got {text!r}")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, {"None": None, "True": True, "False": False}.get(value, value)


def custom_sources(options: Options) -> dict[str, Source]:
    """The user's own files by split; all four paths or none."""
    given = {
        "--train-annotations": options.train_annotations, "--train-images": options.train_images,
        "--val-annotations": options.val_annotations, "--val-images": options.val_images,
    }  # fmt: skip
    missing = [flag for flag, path in given.items() if path is None]
    if len(missing) == len(given):
        return {}
    if missing:
        raise ValueError(f"your own data needs all four paths; missing: {', '.join(missing)}")
    paths = {flag: path.expanduser().absolute() for flag, path in given.items() if path is not None}
    return {split: Source(paths[f"--{split}-annotations"], paths[f"--{split}-images"]) for split in ("train", "val")}
