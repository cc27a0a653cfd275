"""From rows to trials: what is to be done, what is done already, what the cluster can do at once."""

import hashlib
import logging
import shutil
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from piip import home
from piip.catalogue.preflight import check, cost_of
from piip.counting.costs import Cost
from piip.counting.published import published
from piip.data.sources import Source
from piip.record.code import code_digest
from piip.record.events import read_status
from piip.record.journal import Journal
from piip.record.runs import RunRecord, create_run, now_ms
from piip.record.scores import as_tags
from piip.record.trial import Trial
from piip.spec import ExperimentSpec
from piip.sweeps.identity import trial_key
from piip.sweeps.resources import Resources
from piip.sweeps.splits import Split, Splits, fit_classes
from piip.training import loop

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Planned:
    """A trial, its cost, and whether it is done already."""

    trial: Trial
    cost: Cost
    status: str
    """What an earlier call with the same key came to: `FINISHED` trials are never run again."""
    plan: loop.Plan
    """The training's schedule in optimizer steps: how many an epoch has depends on how many images there are."""


def plan_trials(
    specs: Sequence[ExperimentSpec], *, experiment: str, resources: Resources, custom: Mapping[str, Source] | None = None,
    max_eval_images: int | None = None, fresh: bool = False, compared: bool = False,
) -> tuple[str, list[Planned]]:  # fmt: skip
    """Check every spec against its data, open the parent's and the trials' records.

    Args:
        specs: The rows.
        experiment: MLflow's.
        resources: Of each trial.
        custom: The user's own files by split.
        max_eval_images: Score these only.
        fresh: Begin finished and unfinished trials anew.
        compared: Refuse trials that are not scored on the same data.

    Returns:
        The parent's key and the planned trials, in the order of `specs`.

    Raises:
        ValueError: Attention or a kernel that workers cannot run, data missing or damaged, classes that do not match, workers
            that do not divide the batch, other data where they are to be the same.
    """
    check(specs, workers=resources.workers, gpus_per_worker=resources.gpus_per_worker)
    splits = Splits(custom, max_eval_images)
    trials: list[tuple[Trial, dict[str, Split]]] = []
    changed: dict[tuple[int, int], str] = {}
    for given in specs:
        data = splits.of(given)
        spec = _with_absolute_weights(fit_classes(given, data))
        changed.setdefault(
            (given.model.head.num_classes, spec.model.head.num_classes), str(data["train"].source.annotations)
        )
        key = trial_key(spec, data_tags(data), fresh=fresh, max_eval_images=max_eval_images)
        sources = {name: split.source for name, split in data.items()}
        trials.append((Trial(spec, key, sources, max_eval_images), data))
    if compared:
        _check_one_yardstick(trials)
    for (said, there), file in changed.items():
        if said != there:
            log.warning("model.head.num_classes is %d, not %d: as many classes as there are in %s", there, said, file)
    for line in dict.fromkeys(trial.spec.data.reading(data["train"].classes) for trial, data in trials):
        if line:
            log.warning("%s", line)
    parent_key = record_sweep([trial.key for trial, _ in trials], experiment)
    return parent_key, [_planned(trial, data, experiment, parent_key) for trial, data in trials]


def _check_one_yardstick(trials: Sequence[tuple[Trial, Mapping[str, Split]]]) -> None:
    named = {data["val"].digest: f"{trial.spec.data.name} (digest {data['val'].digest[:8]})" for trial, data in trials}
    if len(named) > 1:
        raise ValueError(
            f"--asha stops trials by their scores on the same data, these rows are scored on {', '.join(named.values())}. Name rows of "
            "one of them, or leave --asha out"
        )


def _planned(trial: Trial, data: Mapping[str, Split], experiment: str, parent_key: str) -> Planned:
    """A trial whose record is open."""
    its_cost = cost_of(trial.spec)
    record_trial(trial, its_cost, data_tags(data), experiment=experiment, parent_key=parent_key)
    steps = loop.plan(trial.spec, data["train"].steps_per_epoch(trial.spec.train.batch_size))
    return Planned(trial, its_cost, read_status(home.journal_dir(trial.key)), steps)


def _with_absolute_weights(spec: ExperimentSpec) -> ExperimentSpec:
    """Workers stand in another folder: paths of weights become absolute. Names of public files stay."""
    named = {
        f: given for f, given in spec.flat().items() if f.startswith("model.") and f.endswith(".weights") and given
    }
    paths = {field: Path(given).expanduser() for field, given in named.items()}
    changes = {field: str(path.absolute()) for field, path in paths.items() if path.exists()}
    return spec.override(changes) if changes else spec


def record_sweep(keys: Sequence[str], experiment: str) -> str:
    """Open the record of a sweep, the parent of its trials; the same trials are the same sweep."""
    key = "sweep-" + hashlib.sha256(f"{experiment}:{sorted(keys)}".encode()).hexdigest()[:12]
    tags, count = git_tags() | {"piip.kind": "sweep"}, str(len(keys))
    create_run(RunRecord(key, f"sweep of {count}", experiment, None, {"trials": count}, tags, now_ms()))
    return key


def record_trial(
    trial: Trial, its_cost: Cost, data: Mapping[str, str], *, experiment: str, parent_key: str | None
) -> None:
    """Open the trial's record: what MLflow will be told of it whatever happens next."""
    params = {name: str(value) for name, value in trial.spec.flat().items()}
    paper = {
        f"paper.{k}": str(v)
        for k, v in (trial.spec.paper.model_dump() if trial.spec.paper else {}).items()
        if v is not None
    }
    tags = {
        "piip.trial_key": trial.key,
        "piip.spec_digest": trial.spec.digest,
        "piip.code_digest": code_digest(trial.spec),
        **data,
        **git_tags(),
        **paper,
        **as_tags(trial.spec.scores),
    }
    tags |= {"piip.note": start_of(trial.spec), "piip.title": trial.spec.model.backbone.title}
    if trial.max_eval_images:
        tags["piip.max_eval_images"] = str(trial.max_eval_images)
    record = RunRecord(trial.key, trial.spec.name, experiment, parent_key, params, tags, now_ms())
    folder = create_run(record)
    journal = Journal(folder, attempt=f"plan-{uuid.uuid4()}", running=False)
    spec_file = folder / "spec.json"
    spec_file.write_text(trial.spec.model_dump_json(indent=1))
    journal.artifact(spec_file, "spec.json")
    count = published(trial.spec.model)
    by_paper = {"cost/gflops_published": count.flops / 1e9} if count else {}
    journal.log(0, {"cost/gflops": its_cost.gflops, "cost/params_m": its_cost.params_m} | by_paper)


def start_of(spec: ExperimentSpec) -> str:
    """What the network starts from, in words for the table: the first thing a fair comparison asks."""
    if spec.model.weights:
        return f"fine-tuned from {Path(spec.model.weights).name}"
    return spec.model.backbone.start


def data_tags(data: Mapping[str, Split]) -> dict[str, str]:
    """Digest, place and size of each split."""
    return {tag: value for name, split in data.items() for tag, value in split.tags(name).items()}


def git_tags() -> dict[str, str]:
    """The checkout's commit; empty outside a checkout (a job's working directory, an installed wheel) and without git."""
    if shutil.which("git") is None:
        return {}
    found = subprocess.run(
        ["git", "-C", str(home.package_root()), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
        capture_output=True,
        text=True,
        check=False,
    )
    return {"git.commit": found.stdout.strip()} if found.returncode == 0 else {}
