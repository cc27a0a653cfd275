"""COCO's result entries as rows of a table, and in words."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from piip.data.samples import ImageInfo

Results = list[dict[str, Any]]
"""Result entries of one image: image_id, category_id, bbox (x, y, width, height in file pixels), score and, of a mask head, segmentation
(compressed RLE)."""

SCHEMA = pa.schema(
    [
        ("image_id", pa.int64()),
        ("file_name", pa.string()),
        ("category_id", pa.int64()),
        ("bbox", pa.list_(pa.float64(), 4)),
        ("score", pa.float64()),
        ("segmentation", pa.struct([("size", pa.list_(pa.int32())), ("counts", pa.string())])),
    ]
)
"""A result entry with the name of its image; no segmentation where only boxes were found (whose `size`, as a list of fixed length,
Parquet would not read back)."""


KEYPOINTS = pa.field("keypoints", pa.list_(pa.float64()))
"""The column that a keypoint head adds: x, y, 1 of each."""


def to_table(results: Sequence[tuple[ImageInfo, Results]], *, keypoints: bool = False) -> pa.Table:
    """A row a result entry; with a column of keypoints where the network finds them."""
    rows = [{"file_name": info.file_name, **entry} for info, found in results for entry in found]
    return pa.Table.from_pylist(rows, schema=SCHEMA.append(KEYPOINTS) if keypoints else SCHEMA)


def from_table(table: pa.Table, info: ImageInfo) -> Results:
    """The entries of an image."""
    rows = table.filter(pc.field("image_id") == info.image_id).drop_columns(["file_name"]).to_pylist()
    return [{key: value for key, value in row.items() if value is not None} for row in rows]


def describe(results: Results, *, score_threshold: float) -> str:
    """How many objects are sure enough, and how sure the surest is where none is."""
    sure = sum(entry["score"] >= score_threshold for entry in results)
    highest = max((entry["score"] for entry in results), default=0.0)
    hint = "" if sure else f"; the highest score is {highest:.2f}, --score-threshold draws lower ones too"
    return f"{sure} objects of {len(results)} candidates{hint}"


def telling_threshold(results: Sequence[Mapping[str, Any]]) -> float:
    """0.5, or half the surest score where none reaches it: a weak network's guesses are worth a look, scores stand beside them."""
    surest = max((entry.get("score", 1.0) for entry in results), default=0.5)
    return 0.5 if surest >= 0.5 else surest / 2
