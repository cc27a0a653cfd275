import pytest

from piip.contracts import Input
from piip.data import open_dataset
from piip.spec import CocoSpec


def test_evaluation_has_limits_of_its_own_where_the_spec_says_so(coco_folder):
    coco_folder.add_object(coco_folder.add_image(200, 100))
    source = coco_folder.write()
    spec = CocoSpec(short_ratio=0.5, pad_multiple=1, eval_scale=(400, 300))
    wanted = Input(100, (127.5,) * 3, (127.5,) * 3)

    training, evaluation = (open_dataset(spec, source, wanted, training=flag) for flag in (True, False))

    assert training.sample(0, 0).image.shape == (3, 50, 100)
    assert evaluation.sample(0, 0).image.shape == (3, 200, 400)
    assert spec.largest_input(100) == (50, 100)


def test_a_scale_of_the_data_takes_the_place_of_the_resolution():
    spec = CocoSpec(scale=(1333, 800), pad_multiple=32)

    assert spec.limits(1024, training=True) == spec.limits(1024, training=False) == (1333, 800)
    assert spec.largest_input(1024) == (800, 1344)
    with pytest.raises(ValueError, match=r"scale is long side, then short side.* got \[800, 1333\]"):
        CocoSpec(scale=(800, 1333))
