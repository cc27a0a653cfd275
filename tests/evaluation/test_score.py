import numpy as np
import pytest

from piip.data.formats import ade20k_results, coco_results
from piip.data.formats.folder_format import SCHEMA
from piip.data.samples import ImageInfo
from piip.evaluation.score import rows_of, with_names

INFO = ImageInfo(4, "4.jpg", 1, 2)
CLASSES = [{"id": 3, "name": "cat"}, {"id": 7, "name": "kite"}]
ENTRY = {"image_id": 4, "category_id": 7, "score": 0.5}
TABLES = {
    "coco": coco_results.to_table([(INFO, [ENTRY | {"bbox": [0.0, 0.0, 1.0, 1.0]}])]),
    "ade20k": ade20k_results.to_table([(INFO, np.array([[7, 7]], dtype=np.uint8))]),
    "imagenet": SCHEMA.empty_table().from_pylist([ENTRY | {"file_name": "4.jpg", "name": "kite"}], schema=SCHEMA),
}


@pytest.mark.parametrize("kind", TABLES)
def test_results_of_every_kind_say_image_and_class_by_number_and_name(kind):
    named = with_names(TABLES[kind], CLASSES)

    assert named.column_names[:4] == ["image_id", "file_name", "category_id", "name"]
    (row,) = rows_of(named)
    assert [row[name] for name in named.column_names[:4]] == [4, "4.jpg", 7, "kite"]
    assert with_names(TABLES[kind].slice(0, 0), CLASSES).schema == named.schema
