import pyarrow.parquet as pq
import pytest
from inputs import grey
from PIL import Image

from piip.data import open_format
from piip.data.formats.coco_results import telling_threshold
from piip.data.samples import ImageInfo
from piip.spec import CocoSpec

FORM = open_format(CocoSpec(), grey(64), [{"id": 2, "name": "cat"}, {"id": 7, "name": "dog"}])
FIRST, SECOND, EMPTY = (ImageInfo(i, f"{i}.jpg", 40, 60) for i in (3, 1, 8))


def entry(info, score, **more):
    return {"image_id": info.image_id, "category_id": 7, "bbox": [1.5, 2.0, 10.0, 12.25], "score": score} | more


MASK = {"size": [40, 60], "counts": "PPYo00c"}
WITH_MASKS = [(FIRST, [entry(FIRST, 0.4, segmentation=MASK), entry(FIRST, 0.1, segmentation=MASK)]), (EMPTY, []),
              (SECOND, [entry(SECOND, 0.3, segmentation=MASK)])]  # fmt: skip
BARE = [(info, [{k: v for k, v in one.items() if k != "segmentation"} for one in found]) for info, found in WITH_MASKS]


@pytest.mark.parametrize("results", [WITH_MASKS, BARE, []], ids=["masks", "boxes", "nothing"])
def test_results_come_back_from_parquet_as_they_were(results, tmp_path):
    pq.write_table(FORM.to_table(results), tmp_path / "results.parquet")

    table = pq.read_table(tmp_path / "results.parquet")

    assert table.column_names[:2] == ["image_id", "file_name"]
    assert [(info, FORM.from_table(table, info)) for info, _ in results] == results
    assert FORM.from_table(table, ImageInfo(99, "99.jpg", 1, 1)) == []


def test_tables_with_and_without_anything_found_have_the_same_columns():
    assert FORM.to_table(WITH_MASKS).schema == FORM.to_table(BARE).schema == FORM.to_table([]).schema


def test_a_result_in_words():
    found = WITH_MASKS[0][1]

    assert FORM.describe(found, score_threshold=0.3) == "1 objects of 2 candidates"
    assert FORM.describe(found) == (
        "0 objects of 2 candidates; the highest score is 0.40, --score-threshold draws lower ones too"
    )
    assert FORM.describe([]).startswith("0 objects of 0 candidates")


def test_pictures_show_a_weak_networks_surest_guesses():
    assert telling_threshold([]) == 0.5
    assert telling_threshold([{"score": 0.2}, {"score": 0.05}]) == 0.1
    assert telling_threshold([{"score": 0.7}, {"score": 0.3}]) == 0.5
    assert telling_threshold([{"category_id": 1}]) == 0.5  # a truth


def test_boxes_are_drawn_without_masks():
    image = Image.new("RGB", (60, 40))

    drawn = FORM.draw(image, BARE[0][1], score_threshold=None)

    assert drawn.tobytes() != FORM.draw(image, []).tobytes()
