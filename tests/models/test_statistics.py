import torch
from torch import nn

from piip.models.heads.upernet import UPerNet
from piip.models.layers.statistics import share_statistics
from piip.spec import UPerNetSpec


def head():
    return UPerNet((8, 8, 8, 8), UPerNetSpec(num_classes=3, channels=4))


def kinds(module):
    return {type(part) for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)}


def test_on_gpus_batchnorms_are_shared_under_the_same_names():
    shared = head()
    names = list(shared.state_dict())

    assert share_statistics(shared, workers=2, device=torch.device("cuda")) == ""

    assert kinds(shared) == {nn.SyncBatchNorm}
    assert list(shared.state_dict()) == names


def test_on_the_cpu_they_stay_each_workers_own_and_it_is_said():
    own = head()

    note = share_statistics(own, workers=3, device=torch.device("cpu"))

    assert kinds(own) == {nn.BatchNorm2d}
    assert note == "BatchNorm in the head counts each worker's own images: sharing them among 3 needs GPUs"


def test_one_worker_and_heads_without_batchnorm_have_nothing_to_share():
    alone = head()

    assert share_statistics(alone, workers=1, device=torch.device("cuda")) == ""
    assert share_statistics(nn.Linear(2, 2), workers=4, device=torch.device("cpu")) == ""
    assert kinds(alone) == {nn.BatchNorm2d}
