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
from piip.catalogue.preflight import check_batch, check_device, check_trainable, cost_of, sources_of
from piip.contracts import Dataset
from piip.counting.cost import Cost
from piip.counting.published import published
from piip.data import open_dataset
from piip.data.check import refuse_broken
from piip.data.sources import Source
from piip.record.code import code_digest
from piip.record.journal import Journal, RunRecord, create_run, now_ms, read_status
from piip.record.scores import as_tags
from piip.record.trial import Trial
from piip.spec import ExperimentSpec, PIIPSpec
from piip.sweeps.identity import trial_key
from piip.sweeps.resources import Resources
from piip.training import loop

log = logging.getLogger(__name__)

PACKAGE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Planned:
    """A trial, its cost, and whether it is done already."""

    trial: Trial
    cost: Cost
    status: str
    """Of an earlier call with the same key: `FINISHED` trials are never run again."""
    plan: loop.Plan
    """In steps; an epoch is as long as the data are many."""


def plan_trials(
    specs: Sequence[ExperimentSpec], *, experiment: str, resources: Resources, custom: Mapping[str, Source] | None = None,
    max_eval_images: int | None = None, fresh: bool = False, parent_tags: Mapping[str, str] | None = None,
) -> tuple[str, list[Planned]]:  # fmt: skip
    """Check every spec against its data, open the parent's and the trials' records.

    Returns:
        The parent's key and the planned trials, in the order of `specs`.

    Raises:
        ValueError: A head that cannot be trained yet, attention or a kernel that workers cannot run, data missing or damaged,
            classes that do not match, workers that do not divide the batch.
    """
    check_trainable(specs)
    check_device(specs, resources.gpus_per_worker)
    trials: list[tuple[Trial, Cost, dict[str, str]]] = []
    num_images: list[int] = []
    opened: dict[str, dict[str, Dataset]] = {}
    for given in specs:
        sources = sources_of(given, custom)
        prepared = given.data.model_dump_json()  # two rows may treat the same files differently (broken_images)
        if prepared not in opened:
            opened[prepared] = {
                s: open_dataset(given.data, src, given.model.backbone.input, training=s == "train")
                for s, src in sources.items()
            }
            if given.data.broken_images == "refuse":
                for split in opened[prepared].values():
                    refuse_broken(split, home.home() / "decoded")
        data = opened[prepared]
        spec = _with_absolute_weights(_fit_classes(given, data))
        check_batch(spec, resources.workers)
        tags = data_tags(data)
        key = trial_key(spec, tags, fresh=fresh, max_eval_images=max_eval_images)
        num_images.append(len(data["train"]))
        trials.append((Trial(spec, key, sources, max_eval_images), cost_of(spec), tags))
    parent_key = (
        "sweep-" + hashlib.sha256(f"{experiment}:{sorted(t.key for t, *_ in trials)}".encode()).hexdigest()[:12]
    )
    common = dict(parent_tags or {}) | git_tags() | {"piip.kind": "sweep"}
    create_run(
        RunRecord(
            parent_key, f"sweep of {len(trials)}", experiment, None, {"trials": str(len(trials))}, common, now_ms()
        )
    )
    planned = []
    for (trial, its_cost, tags), images in zip(trials, num_images, strict=True):
        record_trial(trial, its_cost, tags, experiment=experiment, parent_key=parent_key)
        steps = loop.plan(trial.spec, -(-images // trial.spec.train.batch_size))
        planned.append(Planned(trial, its_cost, read_status(home.journal_dir(trial.key)), steps))
    return parent_key, planned


def _fit_classes(spec: ExperimentSpec, data: Mapping[str, Dataset]) -> ExperimentSpec:
    """The spec with as many classes as the data has."""
    train, val = data["train"].classes, data["val"].classes
    if train != val:
        odd = next(c for c in [*train, *val] if c not in train or c not in val)
        raise ValueError(f"training and validation annotations have different categories; first difference: {odd}")
    if len(train) == spec.model.head.num_classes:
        return spec
    return spec.override({"model.head.num_classes": len(train)})


def _with_absolute_weights(spec: ExperimentSpec) -> ExperimentSpec:
    """Workers stand in another folder: paths of weights become absolute. Names of public files stay."""
    named = {"model.weights": spec.model.weights}
    if isinstance(spec.model.backbone, PIIPSpec):
        branches = enumerate(spec.model.backbone.branches)
        named |= {f"model.backbone.branches.{i}.weights": branch.weights for i, branch in branches}
    paths = {field: Path(given).expanduser() for field, given in named.items() if given}
    changes = {field: str(path.absolute()) for field, path in paths.items() if path.exists()}
    return spec.override(changes) if changes else spec


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
        **as_tags(trial.spec.data.scores),
    }
    tags["piip.note"] = start_of(trial.spec)
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


def data_tags(data: Mapping[str, Dataset]) -> dict[str, str]:
    """Digest and place of each split."""
    tags = {}
    for split, dataset in data.items():
        tags[f"data.{split}.digest"] = dataset.digest
        tags[f"data.{split}.annotations"] = str(dataset.source.annotations)
        tags[f"data.{split}.images"] = str(dataset.source.images)
        tags[f"data.{split}.count"] = str(len(dataset))
    return tags


def git_tags() -> dict[str, str]:
    """The checkout's commit; empty outside a checkout (a job's working directory, an installed wheel) and without git."""
    if shutil.which("git") is None:
        return {}
    found = subprocess.run(
        ["git", "-C", str(PACKAGE), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
        capture_output=True,
        text=True,
        check=False,
    )
    return {"git.commit": found.stdout.strip()} if found.returncode == 0 else {}
