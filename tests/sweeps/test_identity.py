import json
from pathlib import Path
from typing import Annotated, Literal

import pytest
from kinds import DATA
from tiny import ROWS

from piip.catalogue.rows import all_rows
from piip.spec import ExperimentSpec, Spec
from piip.spec.base import Added, DecidesNoNumber
from piip.sweeps import identity
from piip.sweeps.identity import meaning, trial_key

SPEC: ExperimentSpec = ROWS["pico"][1]
DIGESTS = {"data.train.digest": "a" * 16, "data.val.digest": "b" * 16}
GOLDEN = Path(__file__).parents[1] / "golden" / "digests.json"


def test_a_key_follows_spec_data_code_and_scored_images_only(monkeypatch):
    key = trial_key(SPEC, DIGESTS)

    assert trial_key(SPEC, DIGESTS | {"data.train.images": "elsewhere"}) == key
    others = {
        trial_key(SPEC.override({"optim.lr": 7e-4}), DIGESTS),
        trial_key(SPEC, DIGESTS | {"data.val.digest": "c" * 16}),
        trial_key(SPEC, DIGESTS, max_eval_images=5),
    }
    monkeypatch.setattr(identity, "code_digest", lambda spec: "other code")
    others.add(trial_key(SPEC, DIGESTS))
    assert len(others | {key}) == 5


def test_other_weights_to_start_from_make_another_trial(tmp_path):
    file = tmp_path / "start.pth"
    keys = []
    for content in (b"one", b"two", b"one"):
        file.write_bytes(content)
        keys.append(trial_key(SPEC.override({"model.weights": str(file)}), DIGESTS))

    assert keys[0] == keys[2] != keys[1]
    assert trial_key(SPEC, DIGESTS) not in keys


def test_another_pretraining_under_the_same_path_makes_another_trial(tmp_path):
    file = tmp_path / "small.pth"
    field = "model.backbone.branches.0"
    spec = SPEC.override({f"{field}.weights": str(file), f"{field}.pretrained": True})
    keys = []
    for content in (b"one", b"two", b"one"):
        file.write_bytes(content)
        keys.append(trial_key(spec, DIGESTS))

    assert keys[0] == keys[2] != keys[1]


@pytest.mark.parametrize("changes", [{"model.weights": "{start}"}, {"model.backbone.branches.0.pretrained": False}])
def test_a_pretraining_that_is_not_read_changes_nothing(tmp_path, changes):
    start, file = tmp_path / "start.pth", tmp_path / "small.pth"
    start.write_bytes(b"start")
    given = {field: value.format(start=start) if isinstance(value, str) else value for field, value in changes.items()}
    spec = SPEC.override(
        {"model.backbone.branches.0.weights": str(file), "model.backbone.branches.0.pretrained": True} | given
    )
    keys = []
    for content in (b"one", b"two"):
        file.write_bytes(content)
        keys.append(trial_key(spec, DIGESTS))

    assert keys[0] == keys[1]


def test_a_rows_key_is_its_own_after_all_that_was_added_since():
    digests = json.loads(GOLDEN.read_text())
    rows = all_rows()
    changed = {name: rows[name].digest for name, digest in digests.items() if rows[name].digest != digest}

    assert len(digests) == 17
    assert changed == {}, (
        "these rows would be trained again by everybody who has trained them. A new field is left out of the digest at the value "
        "that does as before: Annotated[..., Added(value)] (piip/spec/base.py); one that decides no number has DecidesNoNumber(). Where "
        "a row's numbers did change, on purpose: write its digest of above into tests/golden/digests.json and say so in CHANGELOG.md"
    )


@pytest.mark.parametrize("data", DATA, ids=lambda data: data.kind)
def test_what_own_data_are_called_makes_no_other_trial(data):
    rows = {
        name: SPEC.override({"data": data.model_copy(update={"name": name}).model_dump(mode="json")})
        for name in ("custom", "birds", "demo", data.name)
    }

    keys = {name: trial_key(row, DIGESTS) for name, row in rows.items()}
    assert rows["birds"].identity()["data"]["name"] == "custom"  # as earlier versions called all of them
    assert keys["birds"] == keys["custom"]
    assert len(set(keys.values())) == 1 + len({"demo", data.name} & set(data.places))


class Before(Spec):
    kind: Literal["toy"] = "toy"
    width: int = 3


class Marked(Before):
    smoothing: Annotated[float, Added(0.0)] = 0.1
    label: Annotated[str, DecidesNoNumber()] = ""


class Unmarked(Before):
    smoothing: float = 0.0


class Holder(Spec):
    parts: tuple[Before | Marked | Unmarked, ...]


def test_a_field_added_later_is_left_out_where_it_does_as_before():
    old, as_before = Holder(parts=(Before(),)).identity(), Holder(parts=(Marked(smoothing=0.0, label="x"),)).identity()

    assert as_before == old
    assert Holder(parts=(Marked(),)).identity() == {"parts": [{"kind": "toy", "width": 3, "smoothing": 0.1}]}


def test_a_field_without_the_mark_is_not():
    assert Unmarked().identity() != Before().identity()


def test_what_the_machine_decides_makes_no_other_trial():
    fast = SPEC.override({"speed.kernel": "cpp", "speed.memory": "returned"})

    assert trial_key(fast, DIGESTS) == trial_key(SPEC, DIGESTS)
    assert trial_key(SPEC.override({"speed.windows": "padded"}), DIGESTS) != trial_key(SPEC, DIGESTS)


def test_what_a_spec_computes_for_the_code_is_part_of_the_key(monkeypatch):
    key, means = trial_key(SPEC, DIGESTS), dict(meaning(SPEC))
    assert means["model.backbone.branches0.family"] == "'deit'"
    assert means["model.head.wants"].startswith("Maps(")

    monkeypatch.setattr("piip.spec.backbones.FAMILIES", {"pico": "internvit"})
    assert trial_key(SPEC, DIGESTS) != key
