"""Released weights become a run: read, checked, and scored by piip.eval like any other."""

import json

import pytest
import torch

from piip import convert, home, rows
from piip import eval as eval_verb
from piip.data.demo.make import Recipe, make_demo
from piip.evaluation.rebuild import rebuild
from piip.models import build_model
from piip.models.speed import switch_network
from piip.ops.compiled import cpu
from piip.tracking.store import Store
from piip.training import checkpoint
from piip.training.start import start_from
from piip.weights.names.mmdet import official_name
from piip.weights.read import WeightsError

ROW = next(name for name in rows.all_rows() if name.startswith("mask_rcnn_piip_tb_") and "pico" in name)
SMALL = (
    "model.head.rpn_pre_nms=60",
    "model.head.rpn_post_nms=20",
    "model.head.max_detections=10",
    "model.head.score_threshold=0",
)
SET = [part for text in (*SMALL, "speed.kernel=reference") for part in ("--set", text)]


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory):
    """One home for all: MLflow takes seconds to make its database."""
    folder = tmp_path_factory.mktemp("convert")
    make_demo(folder / "data" / "demo", Recipe(train=2, val=2, sides=(96, 128), objects=(24, 76)))
    return folder


@pytest.fixture(autouse=True)
def in_that_home(shared_home, monkeypatch):
    monkeypatch.setattr(cpu, "load", lambda: False)
    monkeypatch.setenv("PIIP_HOME", str(shared_home))


def journals():
    return {folder.name for folder in (home.home() / "journals").glob("*")}


@pytest.fixture(scope="module")
def spec():
    from piip.catalogue.overrides import parse_override

    return rows.all_rows()[ROW].override(dict(map(parse_override, SET[1::2])))


@pytest.fixture(scope="module")
def model(spec):
    torch.manual_seed(5)
    model = build_model(spec.model, pretrained=False)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "gamma" in name:
                parameter.fill_(0.5)  # interactions that matter
    switch_network(model, spec.speed)
    return model.eval()


@pytest.fixture(scope="module")
def official(model, spec):
    """The model as an official file has it: its names, the background last or left out, scalars without a dimension."""
    tensors = {}
    for ours, value in model.state_dict().items():
        name = official_name(ours, spec.model)
        if "fc_cls" in name:
            value = torch.cat([value[1:], value[:1]])
        elif "fc_reg" in name or "conv_logits" in name:
            value = value[4 if "fc_reg" in name else 1 :]
        tensors[name] = value.reshape(()) if name.split(".")[1].lstrip("w").isdigit() else value
    return tensors


@pytest.fixture
def path(tmp_path, official):
    torch.save({"meta": {"epoch": 12}, "state_dict": official}, tmp_path / "released.pth")
    return tmp_path / "released.pth"


def say(capsys, verb, *arguments):
    capsys.readouterr()
    code = verb([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def converted(capsys, path, *flags):
    code, out, err = say(capsys, convert.cli, path, "--row", ROW, *SET, *flags, "--json")
    assert code == 0, err
    return json.loads(out)


def refused(capsys, path, *flags, row=ROW):
    code, out, err = say(capsys, convert.cli, path, "--row", row, *SET, *flags)
    assert code != 0
    assert out == ""
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in err
    return line


def predictions(model):
    images = torch.rand(1, 3, 128, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        (found,) = model(images, [(120, 96)])
    return found


def check_run(run_id, model):
    rebuilt = rebuild(Store(), run_id)
    ours, expected = predictions(rebuilt.model), predictions(model)
    assert len(expected["scores"]) == 10
    for name, value in expected.items():
        torch.testing.assert_close(ours[name], value, atol=0, rtol=0)


@pytest.mark.slow
def test_a_released_file_becomes_a_run_that_evaluates(capsys, path, model, official):
    document = converted(capsys, path)

    assert document["matched"] == len(official)
    assert document["missing"] == []
    assert document["unexplained"] == {}
    run = Store().get_run(document["run_id"])
    assert (run.name, run.experiment, run.status) == (ROW, "released", "FINISHED")
    assert run.params["model.head.max_detections"] == "10"
    assert run.tags["piip.weights_sha256"] == document["sha256"]
    assert run.metrics["cost/params_m"] == pytest.approx(sum(p.numel() for p in model.parameters()) / 1e6)
    check_run(document["run_id"], model)
    code, out, err = say(capsys, eval_verb.cli, "--run-id", document["run_id"], "--json")
    assert code == 0, err
    assert json.loads(out)["metrics"].keys() >= {"coco/box_ap", "coco/mask_ap"}
    again = converted(capsys, path)
    assert again["run_id"] == document["run_id"]


def test_people_get_the_next_command(capsys, path):
    code, out, _ = say(capsys, convert.cli, path, "--row", ROW, *SET)

    assert code == 0
    assert "python -m piip.eval --run-id" in out
    assert "--set model.weights=" in out


def test_a_dry_run_makes_no_run(capsys, path):
    before = journals()

    assert converted(capsys, path, "--dry-run")["run_id"] is None

    assert journals() == before


def test_a_file_for_another_row_is_refused(capsys, path):
    other = next(name for name in rows.all_rows() if "_piip_tsb_" in name and "pico" in name)
    before = journals()

    error = refused(capsys, path, row=other)

    assert "Missing: " in error
    assert "of another network" in error
    assert journals() == before


def test_a_file_that_is_not_there_is_said_so_before_a_row_is_looked_for(capsys):
    assert convert.cli(["nofile.pth"]) == 2

    assert capsys.readouterr().err == "error: FILE nofile.pth: no such file or folder\n"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda content: content[: len(content) // 2], "is cut short at"),
        (
            lambda content: content.replace(at := content[len(content) // 2 :][:8], bytes([at[0] ^ 1]) + at[1:]),
            "damaged: Bad CRC-32",
        ),
    ],
    ids=["truncated", "flipped"],
)
def test_a_damaged_file_is_refused(capsys, path, damage, said):
    path.write_bytes(damage(path.read_bytes()))

    assert said in refused(capsys, path)


def test_a_malicious_file_is_refused(capsys, path, official):
    class Malicious:
        def __reduce__(self):
            return print, ("this ran",)

    torch.save({"state_dict": official, "meta": Malicious()}, path)

    assert "its pickle asks for print" in refused(capsys, path)


def test_leftovers_are_an_error_unless_allowed(capsys, path, official):
    torch.save({"state_dict": official | {"backbone.branch7.x": torch.ones(1)}}, path)

    assert "Unexplained: backbone.branch7.x" in refused(capsys, path)
    assert converted(capsys, path, "--allow", "unexplained")["unexplained"].keys() == {"backbone.branch7.x"}


def test_what_is_missing_starts_from_random_weights_when_allowed(capsys, path, official):
    torch.save({name: value for name, value in official.items() if "mask_head" not in name}, path)

    assert "Missing: head.roi_heads.mask_head.0.0.weight" in refused(capsys, path)
    document = converted(capsys, path, "--allow", "missing")
    weights = checkpoint.last(home.checkpoint_dir(document["checkpoint"].rpartition("/")[2])).model()
    assert weights["head.roi_heads.mask_head.0.0.weight"].std() > 0


def test_classes_must_be_as_many_as_the_heads(capsys, path):
    assert "has 12 categories" in refused(capsys, path, "--set", "model.head.num_classes=7")


def test_fine_tuning_starts_from_a_converted_run_without_its_optimizer(capsys, path, model, spec):
    folder = converted(capsys, path)["checkpoint"]
    fresh = build_model(spec.model, pretrained=False).eval()
    switch_network(fresh, spec.speed)
    names = [c["name"] for c in checkpoint.last(home.storage() / folder.rpartition("/")[2]).manifest.categories]

    report = start_from(fresh, spec.model.override({"weights": folder}), names)

    assert report.missing == []
    assert torch.equal(predictions(fresh)["scores"], predictions(model)["scores"])


def test_fine_tuning_to_other_classes_takes_all_but_their_rows(path, model, spec):
    other = spec.override({"model.head.num_classes": 3, "model.weights": str(path)}).model
    fresh = build_model(other, pretrained=False)

    with pytest.raises(WeightsError, match=r"Missing: head.roi_heads.box_predictor.cls_score.weight"):
        start_from(fresh, other, ("a", "b", "c"))
    report = start_from(fresh, other.override({"weights_partial": True}), ("a", "b", "c"))

    assert {name.rpartition(".")[0] for name in report.missing} == {
        "head.roi_heads.box_predictor.cls_score",
        "head.roi_heads.box_predictor.bbox_pred",
        "head.roi_heads.mask_predictor.mask_fcn_logits",
    }
    assert torch.equal(fresh.backbone.branches[0].pos_embed, model.backbone.branches[0].pos_embed)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["zero1", "zero3"])
def test_a_deepspeed_folder_predicts_as_the_network_it_was_saved_from(
    capsys, tmp_path, official, model, kind, monkeypatch
):
    from deepspeed_made import save_with_deepspeed
    from deepspeed_worker import NUDGE

    # the worker multiplies by NUDGE before it saves; dividing first leaves what was there, to a last bit
    folder = save_with_deepspeed(tmp_path, {name: value / NUDGE for name, value in official.items()}, kind)

    run_id = converted(capsys, folder)["run_id"]

    ours, expected = predictions(rebuild(Store(), run_id).model), predictions(model)
    assert ours["labels"].tolist() == expected["labels"].tolist()
    torch.testing.assert_close(ours["boxes"], expected["boxes"], atol=1e-3, rtol=0)
    torch.testing.assert_close(ours["scores"], expected["scores"], atol=1e-5, rtol=0)
