"""DeepSpeed shards the networks of 6 billion parameters as piip.cost says it will; on tensors without values."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import LONG

import piip
from piip.catalogue.rows import find_row
from piip.counting.memory import FP32, training_memory

# what DeepSpeed rounds up: a group's shards to 2 elements each (ZeRO 1, 2), a parameter's to whole elements (ZeRO 3)
ROUNDING = 1e-5
LARGE = [
    "mask_rcnn_vit_6b_1024_1x",
    "mask_rcnn_piip_h6b_1024_512_1x",
    "mask_rcnn_piip_lh6b_speedup_1536_1024_512_1x",
]


def shards(row: str, stage: int, world_size: int, ranks: list[int]) -> list[dict[str, int]]:
    env = os.environ | {"PYTHONPATH": str(Path(piip.__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        Path(__file__).parents[1] / "support" / "shard_worker.py",
        row,
        str(stage),
        str(world_size),
    ]
    done = subprocess.run(
        [*command, *map(str, ranks)], env=env, capture_output=True, text=True, timeout=LONG, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"rank"')]


def check(row: str, stage: int, world_size: int, ranks: list[int]) -> None:
    spec = find_row(row)
    train = spec.train.override({"zero_stage": stage, "batch_size": world_size})

    found = shards(row, stage, world_size, ranks)

    # of one small image: the optimizer's share does not depend on its size
    predicted = training_memory(spec.model, train, 224, 224, workers=world_size)
    assert [shard["rank"] for shard in found] == ranks
    for shard in found:
        print(row, f"ZeRO {stage}", shard)
        optimizer_gb = (shard["weights"] + shard["moments"]) * FP32 / 1e9
        assert optimizer_gb == pytest.approx(predicted.optimizer_gb, rel=ROUNDING)
        assert shard["weights"] * world_size >= shard["parameters"]


@pytest.mark.slow
def test_shards_of_a_vit_b_are_those_predicted():
    check("mask_rcnn_vit_b_1024_1x", 1, 4, [0, 3])


@pytest.mark.long
@pytest.mark.parametrize(("row", "stage"), [*((row, 1) for row in LARGE), (LARGE[1], 2), (LARGE[1], 3)])
def test_every_rank_of_a_network_of_6_billion_parameters_has_its_share(row, stage):
    check(row, stage, 4, [0, 1, 2, 3])
