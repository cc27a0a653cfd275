import json

import pytest
import torch
from torch import nn

from piip import presets
from piip.models import build_model
from piip.spec import ClassifierSpec, ExperimentSpec
from piip.training import checkpoint, manifest, saving
from piip.training.engines import build_engine
from piip.training.manifest import CheckpointError, Manifest
from piip.training.upgrade import VERSION, today

DETECTOR = presets.mask_rcnn_pico(presets.pico("TB", (64, 32), pretrained=False), steps=1).override(
    {"train.engine": "ddp"}
)


def classifier(*, merge: bool) -> ExperimentSpec:
    head = ClassifierSpec(num_classes=3, merge=merge, head_token="mean").model_dump(mode="json")
    return DETECTOR.override({"model.head": head})


OLD = {
    "head.neck.": "neck.", "head.rpn.": "rpn.", "head.roi_heads.": "roi_heads.", "head.merged.": "merged_head.",
    "head.own.0.": "backbone.branches.0.", "head.own.1.": "backbone.branches.1.",
}  # fmt: skip
"""Beginnings of names, today and in version 1."""


def in_version_1(tensors):
    def old(name):
        new = next((new for new in OLD if name.startswith(new)), "")
        return OLD.get(new, "") + name.removeprefix(new)

    return {old(name): tensor for name, tensor in tensors.items()}


def write_version_1(root, model: nn.Module, state) -> None:
    """As version 1 wrote it: today's form with other names and no version."""
    saving.save(
        root, Manifest(1, "key", 1, "ddp", [{"id": 7, "name": "dog"}]),
        model=in_version_1(model.state_dict()), state=in_version_1(state), rank=0, barrier=lambda: None,
    )  # fmt: skip
    rewrite(root, lambda body: body.pop("version"))


def rewrite(root, change) -> None:
    file = root / "step_00000001" / "manifest.json"
    body = json.loads(file.read_text())
    del body["digest"]
    change(body)
    file.write_text(json.dumps(body | {"digest": manifest.digest_of(body)}))


@pytest.mark.parametrize(
    "spec", [DETECTOR, classifier(merge=False), classifier(merge=True)], ids=["detector", "own", "merged"]
)
def test_weights_of_version_1_load_into_todays_network(spec, tmp_path):
    torch.manual_seed(1)
    written, model = (build_model(spec.model, pretrained=False) for _ in range(2))
    write_version_1(tmp_path, written, {})
    beginnings = {name.split(".")[0] for name in in_version_1(written.state_dict())}
    assert "head" not in beginnings

    found = checkpoint.last(tmp_path)
    checkpoint.load_model(model, found)

    assert found.manifest.version == 1
    assert found.manifest.categories == [{"id": 7, "name": "dog"}]
    for name, tensor in written.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_an_optimizer_of_version_1_goes_on(tmp_path, process_group):
    model = build_model(DETECTOR.model, pretrained=False)
    write_version_1(tmp_path, model, {f"{n}:exp_avg": torch.full_like(p, 0.25) for n, p in model.named_parameters()})
    optimizer = torch.optim.AdamW(model.parameters())
    engine = build_engine(DETECTOR, model, optimizer, micro_batch=1, accumulate=1)

    engine.load(checkpoint.last(tmp_path))

    assert len(optimizer.state) == len(list(model.parameters()))
    assert all(float(state["exp_avg"].mean()) == 0.25 for state in optimizer.state.values())


def test_todays_names_stay():
    names = ["backbone.branches.0.norm.weight", "neck.x", "merged_head.x", "0:weights"]

    assert [today(name, VERSION) for name in names] == names
    assert today("0:weights", 1) == "0:weights"  # ZeRO's shards have no names


def test_a_later_version_is_refused_and_not_walked_past(tmp_path):
    model = nn.Linear(1, 1)
    write_version_1(tmp_path, model, {})
    (tmp_path / "step_00000001").rename(tmp_path / "step_00000000")
    write_version_1(tmp_path, model, {})
    rewrite(tmp_path, lambda body: body.update(version=VERSION + 1, invented="later"))

    message = (
        rf"step_00000001 is of version {VERSION + 1}, this piip reads up to {VERSION}\. Take the piip that wrote it"
    )
    for read in (checkpoint.last, lambda root: checkpoint.verify(root / "step_00000001")):
        with pytest.raises(CheckpointError, match=message):
            read(tmp_path)
