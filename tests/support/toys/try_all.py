"""Run by tests/test_touches.py with a copy of the package that has the toys: plan, count, train, evaluate, deliver, report, rebuild."""

import json
import os

import torch
import torch.distributed as dist

from piip import home
from piip.data.demo.make import ensure_demo
from piip.evaluation.rebuild import rebuild
from piip.reports.build import build_report
from piip.reports.ranking import rankings
from piip.spec import ExperimentSpec, ModelSpec, OptimSpec, TrainSpec
from piip.spec.backbones import ToySpec
from piip.spec.data import ToyDataSpec
from piip.spec.heads import BrightnessSpec
from piip.sweeps.plan import plan_trials
from piip.sweeps.resources import Resources
from piip.tracking.delivery import deliver, journals
from piip.tracking.store import Store
from piip.training.run import run


def row(lr: float) -> ExperimentSpec:
    return ExperimentSpec(
        name=f"brightness_toy_{lr:g}".replace("-", ""),
        model=ModelSpec(backbone=ToySpec(arch="toy", resolution=64), head=BrightnessSpec()),
        data=ToyDataSpec(),
        optim=OptimSpec(lr=lr, warmup_steps=0),
        train=TrainSpec(batch_size=4, steps=6, engine="ddp", log_every=1, eval_every=3),
    )


os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
torch.set_num_threads(1)
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
ensure_demo()
_, planned = plan_trials([row(1e-6), row(1e-2)], experiment="toys", resources=Resources())
for trial in planned:
    run(trial.trial, rank=0, world_size=1, report=lambda metrics: None)
store = Store()
for folder in journals(home.home() / "journals"):
    deliver(folder, store)
runs = store.find_runs("toys")
(ranking,) = rankings(runs)
table = ranking.trials
rebuilt = rebuild(store, table[0]["run_id"], "best")
print(
    json.dumps(
        {
            "names": [trial["name"] for trial in table],
            "gflops": [trial.cost.gflops for trial in planned],
            "scores": [trial["score"] for trial in table],
            "report": build_report(store, "toys").read_text(encoding="utf-8"),
            "head": type(rebuilt.model.head).__name__,
        }
    )
)
