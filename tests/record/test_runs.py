import pytest
from journals import begin, metric_lines

from piip.record.events import read_status
from piip.record.journal import Journal
from piip.record.runs import read_record


def test_a_record_is_written_once():
    folder = begin(params={"optim.lr": "0.1"}, tags={"piip.engine": "ddp"})

    again = begin(params={"optim.lr": "0.2"}, created_ms=2000)

    assert again == folder
    assert read_record(folder).params == {"optim.lr": "0.1"}
    assert read_record(folder).created_ms == 1000
    assert read_status(folder) == "PENDING"


@pytest.mark.parametrize("key", ["a/b", "..", "", "a b"])
def test_a_key_that_is_no_folder_name_is_refused(key):
    with pytest.raises(ValueError, match="trial key"):
        begin(key)


@pytest.mark.parametrize(
    "name", ["coco/AP@[.5:.95]", "", "/lead", "a/../b", "a//b", "../up", ".", "ä", "x" * 251, "a\nb"]
)
def test_names_mlflow_would_refuse_are_refused_at_once(name):
    folder = begin()
    journal = Journal(folder, "1")

    with pytest.raises(ValueError, match="metric name"):
        journal.log(1, {"fine": 1.0, name: 1.0})
    with pytest.raises(ValueError, match="tag name"):
        journal.tag({name: "x"})
    with pytest.raises(ValueError, match="param name"):
        begin("other", params={name: "x"})
    assert metric_lines(folder) == []
