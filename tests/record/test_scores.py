"""The score that a run's tags carry."""

import json

import pytest
from kinds import DATA

from piip.contracts import Score
from piip.home import package_root
from piip.record.scores import as_tags, details_of, scores_of
from piip.spec import CocoSpec, ImageNetSpec, KeypointsSpec, VocSpec


@pytest.mark.parametrize("kind", DATA, ids=lambda data: data.kind)
def test_scores_come_back_from_the_tags_of_every_kind_of_data(kind):
    tags = as_tags(kind.scores)

    assert scores_of(tags) == kind.scores
    assert tags["piip.score"] == kind.scores[0].name
    assert json.loads(tags["piip.scores"])[0] == {
        "name": kind.scores[0].name, "label": kind.scores[0].label, "mode": "max",
    }  # fmt: skip
    assert max(map(len, tags.values())) < 8000  # MLflow cuts longer ones


def test_a_score_to_be_low_stays_one():
    scores = (Score("toy/error", "error", "min"),)

    assert scores_of(as_tags(scores)) == scores


def test_a_run_from_before_there_was_a_tag_was_trained_on_coco():
    assert scores_of({"piip.kernel": "cpp"}) == CocoSpec.scores


def test_details_are_those_of_the_kinds_of_data_that_have_the_score():
    names = {score.name for score in details_of(CocoSpec.scores)}

    assert names >= {f"coco/{part}_ap_{size}" for part in ("box", "mask") for size in ("small", "medium", "large")}
    assert {score.name for score in details_of(KeypointsSpec.keypoint_scores)} >= {"coco/keypoint_ap_large"}
    assert details_of(VocSpec.scores) == details_of(ImageNetSpec.scores) == details_of((Score("toy/a", "a"),)) == ()


@pytest.mark.parametrize("kind", DATA, ids=lambda data: data.kind)
def test_labels_of_a_kind_of_data_tell_its_figures_apart(kind):
    scores = (*kind.keypoint_scores, *kind.scores, *kind.details)

    assert len({score.label for score in scores}) == len({score.name for score in scores}) == len(scores)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "[1]", '[{"name": "a"}]', '[{"name": "a", "label": "A", "mode": "up"}]']
)
def test_a_damaged_tag_is_said(text):
    with pytest.raises(ValueError, match=r"tag piip\.scores is .*JSON list.*Put it right in MLflow"):
        scores_of({"piip.scores": text})


def test_only_what_knows_the_task_types_a_scores_name():
    scores = [score for data in DATA for score in (*data.scores, *data.keypoint_scores, *data.details)]
    # `acc` alone is a word of many meanings
    words = (
        {s.name for s in scores}
        | {s.key for s in scores if len(s.key) > 3}
        | {s.label for s in scores if " " in s.label}
    )
    package, its_own = package_root() / "piip", ("spec", "presets", "metrics", "data/formats")
    assert len(words) >= 3 * len({data.task for data in DATA})

    found = [
        f"{path}:{number}: {word}"
        for path in sorted(package.rglob("*.py"))
        if not path.relative_to(package).as_posix().startswith(its_own)
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        for word in words
        if word in line
    ]

    assert found == []
