"""What a check of data says: lines for people, a document for programs."""

import json

from piip.console import one_line
from piip.data.problems import Report

EXAMPLES = 3


def as_text(report: Report) -> str:
    """Problems by kind with their first examples, what training sees and scoring counts, the verdict."""
    lines = [f"{report.images} images, {report.annotations} annotations, {report.categories} categories"]
    for kind, found in report.problems.items():
        lines.append(f"{len(found)} x {kind}" + ("" if found[0].fatal else " (forgiven)"))
        lines += [f"    {one_line(problem.message)}" for problem in found[:EXAMPLES]]
        if len(found) > EXAMPLES:
            lines.append(f"    and {len(found) - EXAMPLES} more")
    for what, counts in (("training sees", report.seen.training), ("scoring counts", report.seen.scoring)):
        if counts:
            lines.append(f"{what}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
    lines += report.asks
    lines.append("good" if report.usable else "not usable as it is")
    return "\n".join(lines)


def as_json(report: Report) -> str:
    """The same as one JSON document."""
    problems = {
        kind: {"count": len(found), "fatal": found[0].fatal, "examples": [p.message for p in found[:EXAMPLES]]}
        for kind, found in report.problems.items()
    }
    counts = {"images": report.images, "annotations": report.annotations, "categories": report.categories}
    seen = {"training": report.seen.training, "scoring": report.seen.scoring}
    return json.dumps({"usable": report.usable, **counts, **seen, "asks": report.asks, "problems": problems})
