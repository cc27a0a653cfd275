import pytest

from piip.data.locating import locate
from piip.data.sources import DataError, Source
from piip.spec import CocoSpec


def test_coco_is_under_piip_data(tmp_path, monkeypatch):
    monkeypatch.setenv("PIIP_DATA", str(tmp_path))
    (tmp_path / "coco/annotations").mkdir(parents=True)
    (tmp_path / "coco/val2017").mkdir()
    (tmp_path / "coco/annotations/instances_val2017.json").write_text("{}")

    source = locate(CocoSpec(name="coco"), "val")

    assert source == Source(tmp_path / "coco/annotations/instances_val2017.json", tmp_path / "coco/val2017")


def test_missing_data_says_which_file_and_what_to_do(piip_home):
    with pytest.raises(DataError, match=r"instances_val2017\.json\. Set PIIP_DATA to the folder that holds coco/"):
        locate(CocoSpec(name="coco"), "val")
    with pytest.raises(DataError, match=rf"Make it: python -m piip.data.demo {piip_home}/data/demo"):
        locate(CocoSpec(name="demo"), "train")
    with pytest.raises(DataError, match=rf"Make it: python -m piip.data.demo {piip_home}/data/aerial --kind aerial"):
        locate(CocoSpec(name="aerial"), "train")


@pytest.mark.parametrize("name", ["custom", "birds"])
def test_own_data_is_what_was_given_under_any_name(tiny_coco, name):
    assert locate(CocoSpec(name=name), "test", {"test": tiny_coco}) == tiny_coco
    with pytest.raises(DataError, match="for 'val'; given: test"):
        locate(CocoSpec(name=name), "val", {"test": tiny_coco})


def test_an_unknown_name_lists_the_known():
    with pytest.raises(
        DataError,
        match=r"no data set 'coca' for detection \(coco\)\. There is: coco, demo, aerial; any other name is of data of your own",
    ):
        locate(CocoSpec(name="coca"), "val")
