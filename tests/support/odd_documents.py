"""A COCO-format document and what may stand in its fields instead."""

SIZES = [(24, 32), (32, 24)]
"""Height and width of the two images; as inputs they are twice as large, so that no object is lost on the way."""

VALUES = [
    None, True, False, "0", "", "1", 0, 1, 2, 7, -1, 0.5, 1.0, 1e300, -1e300, 4294967295, 2**53 + 1, 2**63, 10**400,
    float("nan"), float("inf"), [], {}, [[]], [1, 2, 3], "a\nb", "\ud800", "a\0b", "x" * 300, "/", "../0.png", "1.png",
    [0, 0, 0, 0], [0.1, 0.1, 0.5, 0.5], [4, 4, 0.5, 9], [40, 40, 5, 5], [4, 4, 9, 4294967295],
    [[4294967295, 4, 9, 4, 9, 9]], [[1e12] * 6], [[5, 5] * 3], [[4, 4, 12, 4, 12, 12]], [[4, 4, "12", 4, 12, 12]],
    [[4, 4, True, 4, 12, 12]], [[0, 0, 9e4, 0] * 9], {"size": [24, 32], "counts": [768]},
    {"size": [24, 32], "counts": [0, 768]}, {"size": [24.0, 32], "counts": "P`0"},
    {"size": [24, 32], "counts": [2**32, 768]}, {"size": [24, 32], "counts": "\ud800"},
]  # fmt: skip


def good_document():
    document = {
        "images": [{"id": k, "file_name": f"{k}.png", "height": h, "width": w} for k, (h, w) in enumerate(SIZES)],
        "annotations": [],
        "categories": [{"id": 3, "name": "bolt"}, {"id": 1, "name": "nut"}],
    }
    for k, (image, x, y) in enumerate([(0, 2, 3), (0, 15, 6), (1, 5, 8)]):
        polygon = [x, y, x + 9, y, x + 9, y + 12, x, y + 12]
        document["annotations"].append(
            {"id": k + 1, "image_id": image, "category_id": (3, 1)[k % 2], "bbox": [x, y, 9, 12], "area": 108, "iscrowd": 0,
             "segmentation": [polygon]}
        )  # fmt: skip
    return document
