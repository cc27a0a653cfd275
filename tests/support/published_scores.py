"""VOC's, Open Images' and CrowdHuman's numbers, slow and plain, one loop after the other as the papers and kits tell it."""

import itertools
import math


def overlap(a, b, pixel=0.0):
    """Intersection of two boxes x, y, w, h, and their union."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    inter = max(width, 0.0) * max(height, 0.0)
    return inter, a[2] * a[3] + b[2] * b[3] - inter


def area(points):
    """Sum over the recalls that are reached of the step times the best precision from there on."""
    total, before = 0.0, 0.0
    for recall, _ in points:
        if recall > before:
            total += (recall - before) * max(p for r, p in points if r >= recall)
            before = recall
    return total


def curve(hits, total):
    """(recall, precision) after each of (score, right), the surest first; ties as they come."""
    points, right, wrong = [], 0.0, 0
    for _, value in sorted(hits, key=lambda hit: -hit[0]):
        right, wrong = right + value, wrong + (value == 0)
        points.append((right / total, right / (right + wrong)))
    return points


def voc(document, results):
    """(area, 11-point) means over classes: VOC 2012's kit, VOCevaldet.m and VOCap.m."""
    found = {}
    for category in (c["id"] for c in document["categories"]):
        objects = [a | {"taken": False} for a in document["annotations"] if a["category_id"] == category]
        total = sum(not a["difficult"] for a in objects)
        if not total:
            continue
        hits = []
        images = sorted(i["id"] for i in document["images"])
        mine = [r for i in images for r in results if r["image_id"] == i and r["category_id"] == category]
        for result in sorted(mine, key=lambda r: -r["score"]):  # all images together, as the kit does
            best, at = -1.0, None
            # the kit's corners are whole pixels and its sides one more than their distance, as widths and heights here
            for thing in (a for a in objects if a["image_id"] == result["image_id"]):
                inter, union = overlap(result["bbox"], thing["bbox"])
                if inter / union > best:
                    best, at = inter / union, thing
            if best >= 0.5 and at["difficult"]:
                continue
            hits.append((result["score"], 1.0 if best >= 0.5 and not at["taken"] else 0.0))
            if best >= 0.5:
                at["taken"] = True
        points = curve(hits, total)
        eleven = sum(max([p for r, p in points if r >= k / 10], default=0.0) for k in range(11)) / 11
        found[category] = (area(points), eleven)
    return found


def up(categories, number):
    """A class and all above it."""
    parents = next(c for c in categories if c["id"] == number).get("parents", [])
    return {number}.union(*(up(categories, parent) for parent in parents))


def open_images(document, results):
    """Class -> average precision: the challenge's evaluator, objects of groups counting one."""
    categories, found = document["categories"], {}
    for category in (c["id"] for c in categories):
        objects = [a for a in document["annotations"] if category in up(categories, a["category_id"])]
        hits = []
        for image in sorted(document["images"], key=lambda i: i["id"]):
            here = [a for a in objects if a["image_id"] == image["id"]]
            known = bool(here) or any(category in up(categories, c) for c in image["pos_category_ids"])
            known |= any(c in up(categories, category) for c in image["neg_category_ids"])
            if not known:
                continue
            mine = [r for r in results if r["image_id"] == image["id"] and r["category_id"] == category]
            taken, groups = set(), {}
            for result in sorted(mine, key=lambda r: -r["score"]):
                singles = [(overlap(result["bbox"], a["bbox"]), k) for k, a in enumerate(here) if not a["is_group_of"]]
                best, at = max(((i / u, -k) for (i, u), k in singles), default=(0.0, 0))
                inside, group = max(
                    (
                        (overlap(result["bbox"], a["bbox"])[0] / (result["bbox"][2] * result["bbox"][3]), -k)
                        for k, a in enumerate(here)
                        if a["is_group_of"]
                    ),
                    default=(0.0, 0),
                )
                if best >= 0.5 and at not in taken:
                    taken.add(at)
                    hits.append((result["score"], 1.0))
                elif inside >= 0.5:
                    groups.setdefault(group, result["score"])
                else:
                    hits.append((result["score"], 0.0))
            hits += [(score, 1.0) for score in groups.values()]
        if objects:
            found[category] = area(curve(hits, len(objects)))
    return found


def crowdhuman(document, results):
    """AP, MR^-2, JI: CrowdDet's evaluation."""
    hits, ratios = [], {step: [] for step in range(10)}
    people_in_all = sum(not a["iscrowd"] for a in document["annotations"])
    for image in sorted(document["images"], key=lambda i: i["id"]):

        def clipped(entry, image=image):
            x, y, w, h = entry["bbox"]
            x1, y1 = min(max(x, 0), image["width"] - 1), min(max(y, 0), image["height"] - 1)
            x2, y2 = max(min(x + w, image["width"]), 0), max(min(y + h, image["height"]), 0)
            return x1, y1, x2 - x1, y2 - y1

        here = [a for a in document["annotations"] if a["image_id"] == image["id"]]
        people = [clipped(a) for a in here if not a["iscrowd"]]
        regions = [clipped(a) for a in here if a["iscrowd"]]
        mine = sorted((r for r in results if r["image_id"] == image["id"]), key=lambda r: -r["score"])
        boxes = [(clipped(r), r["score"]) for r in mine]

        def iou(a, b):
            inter, union = overlap(a, b)
            return inter / (union + 1e-6)

        def in_region(box, regions=regions):
            return any(overlap(box, region)[0] / (box[2] * box[3] + 1e-6) > 0.5 for region in regions)

        left = list(range(len(people)))
        for box, score in boxes:
            best = max(left, key=lambda k: (iou(box, people[k]), -k), default=None)
            if best is not None and iou(box, people[best]) > 0.5:
                left.remove(best)
                hits.append((score, 1.0))
            elif not in_region(box):
                hits.append((score, 0.0))
        for step in range(10):
            kept = [box for box, score in boxes if score > 0.1 * step]
            pairs = heaviest([[iou(box, person) for person in people] for box in kept])
            k = len(pairs)
            m = len(people) - sum(in_region(people[j]) for j in set(range(len(people))) - {j for _, j in pairs})
            n = len(kept) - sum(in_region(kept[i]) for i in set(range(len(kept))) - {i for i, _ in pairs})
            if m or n:
                ratios[step].append(k / (m + n - k + 1e-6))
    jaccard = max(sum(these) / len(these) if these else 0.0 for these in ratios.values())
    if not hits:
        return 0.0, 1.0, jaccard
    points = curve(hits, people_in_all)
    ap = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(points))
    wrong, rates = 0, []
    for (recall, _), (_, right) in zip(points, sorted(hits, key=lambda hit: -hit[0]), strict=True):
        wrong += right == 0
        rates.append((wrong / len(document["images"]), 1.0 - recall))
    anchors = (0.01, 0.0178, 0.0316, 0.0562, 0.1, 0.1778, 0.3162, 0.5623, 1.0)
    missed = [next((miss for rate, miss in rates if rate >= anchor), rates[-1][1]) for anchor in anchors]
    miss_rate = 0.0 if min(missed) <= 0 else math.exp(sum(map(math.log, missed)) / 9)
    return ap, miss_rate, jaccard


def heaviest(weights):
    """The pairs (row, column) above .5 whose weights are most in all, of all ways to pair."""

    def best(row, free):
        if row == len(weights):
            return 0.0, []
        ways = [best(row + 1, free)]
        for column in free:
            if weights[row][column] > 0.5:
                weight, pairs = best(row + 1, free - {column})
                ways.append((weight + weights[row][column], [*pairs, (row, column)]))
        return max(ways, key=lambda way: way[0])

    return best(0, frozenset(range(len(weights[0]) if weights else 0)))[1]
