"""The command line every file of experiments/ has."""

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import tyro
from pydantic import Field

from piip import home
from piip.catalogue.listing import list_rows
from piip.catalogue.overrides import overridden
from piip.catalogue.preflight import check, check_device, over_budget, sources_of
from piip.console import INTERRUPTED, run_verb
from piip.data.sources import Source
from piip.nearest import nearest
from piip.options import Count, ExperimentName, Positive, UsageError
from piip.spec import ExperimentSpec
from piip.sweeps.own_data import OwnData, check_there, of_own_kind, own_named, own_sources
from piip.tracking import address

Rows = Mapping[str, Sequence[ExperimentSpec]]
"""Scale (`pico`, `coco`; `ade20k` and `imagenet` for other tasks) -> its rows."""


@dataclass
class Options:
    """Train the rows of an experiment on Ray and compare them in MLflow; a repeated command continues where it stopped."""

    rows: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[ROW ...]")] = ()
    """Names of the rows to run; none: all of them (see --list)."""
    scale: str | None = None
    """pico: small networks on data made here, for two CPU cores.
    coco, ade20k, imagenet: the paper's networks on that data, under $PIIP_DATA.
    Not given: the paper's where its data is there, else pico."""
    list: bool = False
    """Print the rows with their cost and the paper's figures, and start nothing."""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Change a field of every row, e.g. --set optim.lr=3e-4 --set model.backbone.branches.0.resolution=320."""
    experiment: ExperimentName | None = None
    """The MLflow experiment that runs go to; not given: the file's name and the scale, as sweep_resolutions_pico, and what your own
    data are called (--set data.name=birds; not set: as their folder is)."""
    workers: Count = 1
    """Processes that train one trial together, each with its share of the batch."""
    cpus_per_worker: Count = 1
    """CPU threads that each worker computes with; as many load images ahead."""
    gpus_per_worker: Annotated[int, Field(ge=0, le=1)] = 0
    """1 gives each worker a GPU; 0 trains on the CPU."""
    loader_processes: Annotated[int, Field(ge=0, le=256)] | None = None
    """Processes that load images for each worker; the numbers stay the same. Not given: all but one of the cores of a worker that has a
    GPU and more than two, else 0: threads."""
    concurrent: Count | None = None
    """Trials at once; not given: as many as fit."""
    asha: bool = False
    """Stop the weaker half of the trials at each evaluation; needs --set train.eval_every=STEPS."""
    fresh: bool = False
    """Train again from the start, also what is finished already."""
    max_gflops: Positive | None = None
    """Refuse rows whose whole network costs more, before anything starts; --list leaves them out."""
    max_memory_gb: Positive | None = None
    """Refuse rows whose training is predicted to take more on a worker; --list leaves them out."""
    max_eval_images: Count | None = None
    """Score on only the first so many validation images."""
    own: Annotated[OwnData, tyro.conf.arg(name="")] = field(default_factory=OwnData)
    json: bool = False
    """One JSON document on stdout instead of tables; logs go to stderr."""


def main(
    rows: Rows, *, experiment: str, description: str, prog: str | None = None, arguments: Sequence[str] | None = None
) -> None:
    """Run an experiment file's command line; exits non-zero when something failed."""
    sys.exit(
        run_verb(
            _options_of(rows),
            lambda options: _main(rows, experiment, options),
            prog=prog,
            description=description,
            arguments=arguments,
        )
    )


def _options_of(rows: Rows) -> type[Options]:
    """`Options` that says which scales this file has; of no rows (a verb whose one row was named before) neither scales nor rows."""
    choices: Any = Optional[Literal[tuple(rows)]]  # noqa: UP045 (made here, from strings)
    fields: list[Any] = [("scale", choices, None)]
    if not rows:
        hidden = tyro.conf.Suppress
        fields = [("rows", hidden[tuple[str, ...]], ()), ("scale", hidden[str | None], None)]
    return make_dataclass(Options.__name__, fields, bases=(Options,), namespace={"__doc__": Options.__doc__})


def _main(rows: Rows, experiment: str, options: Options) -> int:
    place_home()
    scale, why = choose_scale(rows, options.scale, own_data=bool(options.own.given))
    specs = select(rows[scale], options)
    custom = own_sources(options.own, specs)
    check_there(options.own, specs)
    print(f"scale {scale}: {why}", file=sys.stderr)
    check_device(specs, options.gpus_per_worker)
    over = over_budget(
        specs, max_gflops=options.max_gflops, max_memory_gb=options.max_memory_gb, workers=options.workers
    )
    if options.list:
        return list_within(specs, over, as_json=options.json)
    if over:
        raise ValueError(f"{'; '.join(over.values())}. Name the rows within the budget (see --list), or raise it.")
    check(specs, workers=options.workers, gpus_per_worker=options.gpus_per_worker)
    for spec in specs:
        if spec.data.name != "demo":  # which is made below
            sources_of(spec, custom)
    address.check(home.tracking_uri())
    return _train(
        specs, custom, options.experiment or "_".join([experiment, scale, *_renamed(rows[scale], specs)]), options
    )


def _train(specs: Sequence[ExperimentSpec], custom: Mapping[str, Source], experiment: str, options: Options) -> int:
    """Ray and PyTorch from here on: neither --help nor a wrong name, number or path waits for them."""
    from piip.data.demo.make import ensure_demo
    from piip.sweeps.cluster import check_cluster
    from piip.sweeps.launch import Sweep, run_sweep
    from piip.sweeps.resources import Resources, loading_processes
    from piip.sweeps.summary import print_outcome

    check_cluster()
    if any(spec.data.name == "demo" for spec in specs):
        ensure_demo(home.home() / "data" / "demo")
    sweep = Sweep(
        specs, experiment,
        resources=Resources(
            options.workers, options.cpus_per_worker, options.gpus_per_worker,
            loader_processes=loading_processes(options.cpus_per_worker, options.gpus_per_worker)
            if options.loader_processes is None
            else options.loader_processes,
        ),
        concurrent=options.concurrent, asha=options.asha, fresh=options.fresh,
        max_eval_images=options.max_eval_images, custom=custom,
    )  # fmt: skip
    # Ray tells of workers that died on stdout, which is for results
    with redirect_stdout(sys.stderr):
        outcome = run_sweep(sweep)
    print_outcome(sweep, outcome, as_json=options.json)
    return INTERRUPTED if outcome.interrupted else 1 if outcome.failed else 0


def place_home() -> None:
    """Keep what a submitted job writes: Ray deletes the copy of the checkout that a job runs in."""
    if "PIIP_HOME" not in os.environ and "runtime_resources" in home.home().parts:
        os.environ["PIIP_HOME"] = str(Path.home() / "piip_runs")
        print(f"PIIP_HOME is not set; this job writes to {home.home()}", file=sys.stderr)


def choose_scale(rows: Rows, given: str | None, *, own_data: bool = False) -> tuple[str, str]:
    """The scale to run and why.

    Args:
        rows: The file's.
        given: By --scale.
        own_data: The user's own files are given.
    """
    if given:
        if given not in rows:
            raise ValueError(f"this experiment has no scale {given!r}, only {', '.join(rows)}")
        return given, "as asked"
    if len(rows) == 1:
        return next(iter(rows)), "the only one here"
    folders = {scale: home.data_root() / scale for scale in rows if scale != "pico"}
    for scale, folder in folders.items():
        if folder.is_dir():
            return scale, f"{folder} is there"
    large = " or ".join(folders)
    if own_data:
        return "pico", f"small networks, on your own data (--scale {large} takes the paper's)"
    missing = ", ".join(f"no data at {folder}" for folder in folders.values())
    return "pico", f"{missing}; data is made here (--scale {large} and PIIP_DATA change that)"


def select(rows: Sequence[ExperimentSpec], options: Options) -> list[ExperimentSpec]:
    """The rows named on the command line, with its overrides and data."""
    by_name = {row.name: row for row in rows}
    for name in options.rows:
        if name not in by_name:
            raise UsageError(f"no row {name!r}. {nearest(name, by_name)} All rows: --list")
    specs = [overridden(of_own_kind(options.own, by_name[name]), options.set) for name in options.rows or by_name]
    return own_named(options.own, specs, said=any(text.startswith("data.name=") for text in options.set))


def _renamed(rows: Sequence[ExperimentSpec], specs: Sequence[ExperimentSpec]) -> list[str]:
    """Names of data that are not the rows' own: their trials are compared with nothing on the rows' data."""
    return sorted({spec.data.name for spec in specs} - {row.data.name for row in rows})


def list_within(specs: Sequence[ExperimentSpec], over: Mapping[str, str], *, as_json: bool) -> int:
    """Print the rows but for those over the budget, which a sweep would refuse; these are said on stderr, with the reason."""
    for reason in over.values():
        print(f"left out: {reason}", file=sys.stderr)
    if over:
        print(f"left out: {len(over)} of {len(specs)} rows; asked to train, they are refused", file=sys.stderr)
    return list_rows([spec for spec in specs if spec.name not in over], as_json=as_json)
