"""A run scored by Ray workers: the same bits whatever their number."""

import os
from dataclasses import replace

import pytest
import torch
from pico_trials import pico_spec

from piip.data import open_dataset
from piip.models import build_model
from piip.sweeps.resources import Resources
from piip.sweeps.scoring import evaluate_on_ray
from piip.training import checkpoint, saving
from piip.training.checkpoint import Checkpoint
from piip.training.evaluate import evaluate
from piip.training.manifest import Manifest

SPEC = pico_spec(model__head__score_threshold=0.0)


@pytest.fixture
def kept(tmp_path) -> Checkpoint:
    """The checkpoint of an untrained network."""
    torch.manual_seed(0)
    model = build_model(SPEC.model, pretrained=False)
    manifest = Manifest(3, "key", 1, "ddp", [])
    saving.save(tmp_path, manifest, model=model.state_dict(), state={}, rank=0, barrier=lambda: None)
    return checkpoint.verify(tmp_path / "step_00000003")


@pytest.fixture
def data(sources, monkeypatch):
    monkeypatch.setenv("PIIP_KERNEL", "reference")
    monkeypatch.setattr(os, "cpu_count", lambda: 4)  # a Ray of our own has room for three workers on any machine
    return open_dataset(SPEC.data, sources["val"], SPEC.model.input)


@pytest.mark.slow
def test_one_two_and_three_workers_give_the_numbers_of_none(kept, data):
    from piip.evaluation.rebuild import network_of

    torch.set_num_threads(1)
    metrics, table, expected = evaluate(network_of(SPEC, kept), data)
    heard = []

    for workers in (1, 2, 3):
        found, rows, classes = evaluate_on_ray(
            SPEC, kept, data, Resources(workers), progress=lambda done, total: heard.append((done, total))
        )
        assert found == metrics
        assert rows == table
        assert classes == expected

    assert len(table) > 0
    assert heard == [(1, 3), (2, 3), (3, 3)] * 3


@pytest.mark.slow
def test_a_worker_that_fails_says_why_in_a_line(kept, data):
    missing = replace(kept, folder=kept.folder.with_name("step_00000009"))

    with pytest.raises(ValueError, match=r"^a worker failed: .*step_00000009.*$") as refused:
        evaluate_on_ray(SPEC, missing, data, Resources(1), progress=lambda done, total: None)

    assert len(str(refused.value).splitlines()) == 1
