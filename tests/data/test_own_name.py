from pathlib import Path

import pytest

from piip.data.own_name import own_name


@pytest.mark.parametrize(
    ("paths", "name"),
    [
        (("/d/birds/train.json", "/d/birds/val"), "birds"),
        (("/home/anna/data/birds_train", "/home/anna/data/birds_val"), "birds"),
        (("/birds/annotations/instances_val2017.json", "/birds/images/val2017"), "birds"),
        (("/mnt/data/birds-2", "/mnt/data/birds-2"), "birds_2"),
        (("/d/Vögel/train",), "Vogel"),
        (("/d/coco/train.json", "/d/coco/train"), "own_coco"),
        (("/tmp/train", "/tmp/val"), "custom"),
        (("/1/2",), "custom"),
        (("/home/bob/train_photos", "/home/bob/val_photos"), "custom"),
        ((f"/d/{'x' * 255}",), "x" * 40),
    ],
)
def test_data_are_called_as_the_folder_that_holds_them(paths, name, monkeypatch):
    monkeypatch.setenv("HOME", "/home/bob")
    assert own_name([Path(path) for path in paths], {"coco", "demo"}) == name
