import pytest
import torch
from torch import nn

from piip.spec import TrainSpec
from piip.training.averaging import Average


def layer(value):
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    nn.init.constant_(model[0].weight, value)
    return model


def test_the_mean_moves_by_what_does_not_stay():
    model = layer(0.0)
    average = Average(model, decay=0.9)

    for step in (1, 2):
        nn.init.constant_(model[0].weight, 1.0)
        model[1].running_mean.fill_(7.0)
        model[1].num_batches_tracked += 1
        average.update(step)

    # 0.1, then 0.1 + 0.1 * 0.9; statistics are not averaged
    assert average.weights["0.weight"].item() == pytest.approx(0.19)
    assert average.weights["1.running_mean"].item() == 7
    assert average.weights["1.num_batches_tracked"].item() == 2


def test_warming_up_little_stays():
    average = Average(layer(0.0), decay=0.9999, warmup=2000)

    # mmdetection's momentum at iteration t from 0: (1 - m) exp(-(1 + t) / 2000) + m of the new weights, m = 1e-4
    for t in (0, 100, 10_000):
        momentum = (1 - 1e-4) * torch.exp(torch.tensor(-(1 + t) / 2000.0, dtype=torch.float64)).item() + 1e-4
        assert 1 - average.kept(t + 1) == pytest.approx(momentum)


def test_the_model_has_the_mean_for_a_while_and_its_own_weights_again():
    model = layer(1.0)
    average = Average(model, decay=0.5)
    nn.init.constant_(model[0].weight, 3.0)
    average.update(1)

    with average.in_place():
        assert model[0].weight.item() == 2

    assert model[0].weight.item() == 3
    assert average.weights["0.weight"].item() == 2


def test_a_mean_goes_on_from_what_was_saved():
    saved = Average(layer(5.0), decay=0.5)
    average = Average(layer(1.0), decay=0.5)

    average.load(saved.weights)

    assert average.weights["0.weight"].item() == 5
    assert average.weights["0.weight"] is not saved.weights["0.weight"]


def test_a_mean_of_sharded_weights_is_refused():
    with pytest.raises(ValueError, match=r"zero_stage 3 shards\. Take stage 2"):
        TrainSpec(ema=0.9, zero_stage=3)
    with pytest.raises(ValueError, match="ema_warmup 5 is of a running mean, and ema is not set"):
        TrainSpec(ema_warmup=5)
