"""A sweep as MLflow would give it back: eight trials that behave like the demo's, their parent, a failed one."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from piip.contracts import Score
from piip.presets import PICO, mask_rcnn_pico, piip
from piip.record.scores import as_tags
from piip.reports.ranking import Ranking, rankings
from piip.spec import CNNSpec, CocoSpec, ExperimentSpec
from piip.tracking.store import RunInfo

MINUTE = 60_000
START = 1_790_000_000_000


@dataclass
class FakeStore:
    """What the report asks of piip.tracking.store, from memory."""

    runs: list[RunInfo]
    histories: dict[tuple[str, str], list[tuple[int, float, int]]] = field(default_factory=dict)
    artifacts: Path | None = None
    where: str = "sqlite:////fake/mlflow.db"

    def find_runs(self, experiment):
        found = [run for run in self.runs if run.experiment == experiment]
        if not found:
            raise ValueError(f"no experiment {experiment!r} at {self.where}. There are: pico")
        return found

    def find_deleted(self, experiment):
        return []

    def history(self, run_id, key):
        return self.histories.get((run_id, key), [])

    def download(self, run_id, artifact):
        folder = self.artifacts / run_id / artifact if self.artifacts else Path("/nowhere")
        if not folder.exists():
            raise FileNotFoundError(f"run {run_id} has no artifact {artifact!r}")
        return folder


TRIALS = [
    # backbone, score, GFLOPs, million parameters, images/s
    (piip("TSB", (256, 192, 128), branches=PICO), 0.452, 3.41, 6.1, 6.9),
    (piip("TSB", (256, 128, 128), branches=PICO), 0.437, 2.83, 6.1, 8.1),
    (piip("TSB", (192, 128, 64), branches=PICO), 0.341, 1.52, 6.1, 12.2),
    (piip("TS", (256, 192), branches=PICO), 0.431, 2.44, 3.2, 9.0),
    (piip("TS", (256, 128), branches=PICO), 0.418, 1.91, 3.2, 10.4),
    (piip("TS", (192, 128), branches=PICO), 0.362, 1.31, 3.2, 13.1),
    (piip("B", (256,), branches=PICO), 0.398, 4.02, 4.4, 5.6),
    (CNNSpec(arch="resnet18", resolution=256), 0.425, 2.61, 12.9, 9.7),
]


ERROR = (Score("toy/error", "error", "min"), Score("toy/speed", "speed"))
"""Scores of a data set whose best trial has the lowest number; what there may be one day."""


def ranked(store: "FakeStore") -> Ranking:
    """The one ranking of a sweep."""
    (ranking,) = rankings(store.runs)
    return ranking


def move(runs: Sequence[RunInfo], *, name: str, digest: str, count: int) -> None:
    """Runs as if they had been scored on other data, a little later."""
    for run in runs:
        run.start_ms += 1
        run.params["data.name"] = name
        run.tags |= {"data.val.digest": digest, "data.val.count": str(count)}


def sweep(
    artifacts: Path | None = None, *, failed: bool = True, scores: Sequence[Score] = CocoSpec.scores
) -> FakeStore:
    """A parent, the eight trials of TRIALS on data of these scores, and one that failed before it was ever evaluated."""
    tags = {"git.commit": "9b1d5c2e", "version.torch": "2.15.0+cpu", "version.ray": "2.60.0", "mlflow.user": "somebody"}
    store = FakeStore(
        [RunInfo("0" * 32, "sweep_resolutions", "pico", "FINISHED", {}, tags, {}, START)], artifacts=artifacts
    )
    for number, row in enumerate(TRIALS, start=1):
        _add_trial(store, number, *row, tags=tags | as_tags(scores), scores=scores)
    if failed:
        spec = mask_rcnn_pico(piip("TSB", (320, 256, 192), branches=PICO), steps=160, lr=5e-4)
        note = {
            "piip.failure": "FloatingPointError: loss is nan at step 20: loss_mask=nan. Lower optim.lr <or> set optim.clip_norm"
        }
        run = _run("9" * 32, spec, tags | note | as_tags(scores), {"cost/gflops": 6.2, "cost/params_m": 6.1})
        run.status = "FAILED"
        store.runs.append(run)
    return store


def _run(run_id: str, spec: ExperimentSpec, tags: dict[str, str], metrics: dict[str, float]) -> RunInfo:
    trial_tags = {
        "mlflow.parentRunId": "0" * 32, "piip.trial_key": spec.digest + run_id[:4], "piip.spec_digest": spec.digest,
        "piip.kernel": "none" if spec.model.backbone.kind == "cnn" else "cpp", "piip.engine": "deepspeed zero-0",
        "data.train_digest": "0f12ab3498cd5e6f", "data.val_digest": "aa12ab3498cd5e6f", "hardware.cpu": "2 cores",
    }  # fmt: skip
    params = {key: str(value) for key, value in spec.flat().items()}
    return RunInfo(run_id, spec.name, "pico", "FINISHED", params, tags | trial_tags, metrics, START)


def _add_trial(store, number, backbone, best, gflops, params_m, speed, *, tags, scores, steps=320):
    spec = mask_rcnn_pico(backbone, steps=steps, lr=5e-4)
    run_id = f"{number:032x}"
    first, *others = (score.name for score in scores)
    metrics = {
        f"best/{first}": best, first: best - 0.004,
        **dict.fromkeys(others, best * 0.9), **{f"best/{name}": best * 0.905 for name in others},
        "cost/gflops": gflops, "cost/params_m": params_m, "cost/peak_memory_gb": 0.6 + gflops / 5,
        "train/images_per_second": speed, "time/worker_seconds": 25 + steps * 4 / speed, "train/lr": 5e-5,
        "train/loss_mask": 0.3, "train/loss_box": 0.2,
        "train/loss_objectness": 0.1,
    }  # fmt: skip
    note = {"piip.note": "peer at equal wall time"} if backbone.kind == "cnn" else {}
    store.runs.append(_run(run_id, spec, tags | note, metrics))
    noise, when = random.Random(number), lambda step: START + int(step * 4 / speed * 1000)
    for step in range(5, steps + 1, 5):
        decay = math.exp(-step / 120)
        for part, (start, end) in {"mask": (0.75, 0.3), "box": (0.5, 0.2), "objectness": (0.69, 0.08)}.items():
            value = end + (start - end) * decay + noise.gauss(0, 0.06) - 0.1 * best
            store.histories.setdefault((run_id, f"train/loss_{part}"), []).append((step, value, when(step)))
        rate = 5e-4 * min(1, step / 30) * (0.1 if step > 0.8 * steps else 1)
        store.histories.setdefault((run_id, "train/lr"), []).append((step, rate, when(step)))
    for step in range(80, steps + 1, 80):
        value = best * (1 - math.exp(-2.6 * step / steps)) / (1 - math.exp(-2.6)) - (0.004 if step == steps else 0)
        store.histories.setdefault((run_id, first), []).append((step, value, when(step) + MINUTE // 4))
    if store.artifacts:
        folder = store.artifacts / run_id / "predictions"
        folder.mkdir(parents=True)
        for k in range(3):
            Image.new("RGB", (640, 300), (60 * k, 120, 20 * number)).save(folder / f"{k:03d}.png")
