"""One trial on one worker: open data, build, resume, loop, finish. Ray calls it; a test can call it without Ray."""

import logging
from collections.abc import Callable, Mapping

import torch
import torch.distributed as dist

from piip import home
from piip.data import open_dataset
from piip.data.loader import TrainLoader
from piip.models import build_model
from piip.models.layers.statistics import share_statistics
from piip.models.speed import set_speed
from piip.record.trial import Trial
from piip.training import checkpoint, loop, machine, saving
from piip.training.accounting import Accounts
from piip.training.engines import build_engine
from piip.training.evaluate import evaluate
from piip.training.manifest import Manifest
from piip.training.optim import build_optimizer, distances_of
from piip.training.recorder import Recorder, best_so_far, is_best
from piip.training.start import start_from

log = logging.getLogger(__name__)


def run(
    trial: Trial, *, rank: int, world_size: int, report: Callable[[dict[str, float]], None], loader_processes: int = 0
) -> None:
    """Train `trial` to its end from wherever it was left. Collective over an initialised process group.

    Args:
        trial: The same on every rank.
        rank: Of this worker.
        world_size: Number of workers.
        report: Told the metrics of every evaluation, on every rank (empty except on rank 0).
        loader_processes: That load images; 0 takes threads, as many as PyTorch has.
    """
    spec, score, root = trial.spec, trial.score, home.checkpoint_dir(trial.key)
    root.mkdir(parents=True, exist_ok=True)
    accounts, recorder = Accounts(), Recorder(trial.key, rank=rank, world_size=world_size)

    # open the data
    recorder.doing("reading the annotations")
    wanted, sources = spec.model.input, trial.sources
    train_data = open_dataset(spec.data, sources["train"], wanted, training=True)
    val_data = open_dataset(spec.data, sources["val"], wanted, max_images=trial.max_eval_images)
    loader = TrainLoader(
        train_data, batch_size=spec.train.batch_size, micro_batch=spec.train.micro_batch, rank=rank,
        world_size=world_size, seed=spec.train.seed, num_threads=torch.get_num_threads(), num_processes=loader_processes,
    )  # fmt: skip

    # build the network; weights that a checkpoint, or the whole network's, will replace need not be fetched
    torch.manual_seed(spec.train.seed)
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    kept = checkpoint.last(root)
    recorder.doing("building the network")
    model = build_model(spec.model, pretrained=kept is None and spec.model.weights is None)
    if kept is None:
        if spec.model.weights:
            recorder.doing(f"reading {spec.model.weights}")
        start_from(model, spec.model, [category["name"] for category in train_data.classes])
    model.freeze(spec.train.freeze)
    model = model.to(device)
    set_speed(model, spec.speed, precision=spec.train.precision)
    shared = ("backbone", "head") if spec.model.backbone.shares_statistics else ("head",)
    if (note := share_statistics(model, shared, workers=world_size, device=device)) and rank == 0:
        log.warning(note)
    optimizer = build_optimizer(model, spec.rates, distances_of(model, spec.rates))
    recorder.doing(f"starting {spec.train.engine}")
    engine = build_engine(spec, model, optimizer, micro_batch=loader.micro_batch, accumulate=loader.accumulate)

    # resume
    start = 0
    if kept:
        recorder.doing(f"reading the checkpoint of step {kept.manifest.step}")
        engine.load(kept)
        start = kept.manifest.step
        accounts.count_on(recorder.spent_before(kept.manifest))
        if rank == 0:
            log.warning("resuming %s from step %d", spec.name, start)
    ran = machine.tags(spec, engine.name, device, world_size)
    recorder.tag(ran)
    if rank == 0 and device.type == "cuda":
        log.warning("on %s: attention %s, kernel %s", device, ran["piip.attention"], ran["piip.kernel"])

    def save(step: int) -> None:
        """A checkpoint of `step`, and the oldest ones deleted. Collective."""
        recorder.tag({"piip.checkpoint": str(root)})  # raises in an attempt that has been replaced
        weights = engine.model_state()
        _check_finite(weights, step)
        saving.save(
            root, Manifest(step, trial.key, world_size, engine.name, train_data.classes, accounts.spent()),
            model=engine.average.weights if engine.average else weights, state=engine.optimizer_state(), rank=rank,
            learning=weights if engine.average else None,
            barrier=dist.barrier if world_size > 1 else lambda: None,
        )  # fmt: skip
        if rank == 0:
            saving.prune(root, spec.train.keep)

    def validate(step: int) -> None:
        """Score the validation split, record it, remember the best, tell the sweep. Collective."""
        last = step == plan.num_steps
        with accounts.evaluation, engine.scored():
            metrics, results, classes = evaluate(
                engine.eval_model(), val_data, rank=rank, world_size=world_size,
                keep=lambda metrics: last or is_best(root, score, step, metrics),
            )  # fmt: skip
        if rank == 0:
            if results is not None:
                recorder.keep_predictions(results, classes, last=last, best=is_best(root, score, step, metrics))
            spent = accounts.spent() | accounts.mean_speed(step * spec.train.batch_size)
            # the score last: where it is missing, a resumed trial evaluates again
            recorder.log(step, best_so_far(root, score, step, metrics) | spent | metrics)
        report(metrics | {"step": float(step)})

    # loop; an evaluation that a crash cut off after its checkpoint is made up for first
    plan = loop.plan(spec, loader.steps_per_epoch)
    due = start and (start % plan.eval_every == 0 or start == plan.num_steps)
    if due and not recorder.has(score.name, start):
        validate(start)
    engine.module.train()
    recorder.doing("taking its first steps")
    loop.train(
        spec, engine, loader.batches_from(start), plan,
        start=start, timer=accounts.training, log=recorder.log, evaluate=validate, save=save,
    )  # fmt: skip

    # finish
    recorder.finish()


def _check_finite(weights: Mapping[str, torch.Tensor], step: int) -> None:
    """A gradient can overflow under a finite loss; a trial must not resume from what it leaves."""
    bad = [name for name, value in weights.items() if value.is_floating_point() and not value.isfinite().all()]
    if bad:
        raise FloatingPointError(
            f"{len(bad)} weights are not finite at step {step}: {bad[:3]}. No checkpoint of it is kept. "
            "Lower optim.lr or set optim.clip_norm."
        )
