import pytest
import torch
from torch import nn

from piip.models.heads.upernet import UPerNet
from piip.models.layers.statistics import share_statistics
from piip.models.network import Network
from piip.spec import CNNSpec, MPViTSpec, UPerNetSpec


def network():
    body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    return Network(body, UPerNet((8, 8, 8, 8), UPerNetSpec(num_classes=3, channels=4)))


def kinds(module):
    return {type(part) for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)}


@pytest.mark.parametrize("parts", [("head",), ("backbone", "head")])
def test_on_gpus_batchnorms_are_shared_under_the_same_names(parts):
    model = network()
    names = list(model.state_dict())

    assert share_statistics(model, parts, workers=2, device=torch.device("cuda")) == ""

    assert kinds(model.head) == {nn.SyncBatchNorm}
    assert kinds(model.backbone) == {nn.SyncBatchNorm if "backbone" in parts else nn.BatchNorm2d}
    assert list(model.state_dict()) == names


def test_on_the_cpu_they_stay_each_workers_own_and_it_is_said():
    own = network()

    notes = [share_statistics(own, p, workers=3, device=torch.device("cpu")) for p in (("head",), ("backbone", "head"))]

    assert kinds(own) == {nn.BatchNorm2d}
    assert notes[0] == "BatchNorm in the head counts each worker's own images: sharing them among 3 needs GPUs"
    assert notes[1].startswith("BatchNorm in the backbone and the head counts")


def test_one_worker_and_parts_without_batchnorm_have_nothing_to_share():
    alone = network()

    assert share_statistics(alone, ("head",), workers=1, device=torch.device("cuda")) == ""
    assert (
        share_statistics(
            Network(nn.Linear(2, 2), nn.Linear(2, 2)), ("backbone", "head"), workers=4, device=torch.device("cpu")
        )
        == ""
    )
    assert kinds(alone) == {nn.BatchNorm2d}


def test_mpvits_batchnorms_are_shared_as_published_and_a_peers_are_not():
    assert MPViTSpec.shares_statistics
    assert not CNNSpec.shares_statistics
