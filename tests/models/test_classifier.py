import pytest
import torch
from torch import Tensor

from piip.models import build_model
from piip.models.backbones.piip import PIIP
from piip.presets import PICO, pico, piip
from piip.spec import ClassifierSpec, CNNSpec, InteractionSpec, ModelSpec


def spec(*, class_token: bool = True, **head) -> ModelSpec:
    branches = {
        letter: branch.override({"window": None, "class_token": class_token, "pretrained": False})
        for letter, branch in PICO.items()
    }
    backbone = piip("TB", (96, 64), branches=branches, interaction=InteractionSpec(count=2, num_heads=4))
    return ModelSpec(backbone=backbone, head=ClassifierSpec(num_classes=5, **head))


def of_classes(*labels: int) -> list[dict[str, Tensor]]:
    return [{"probabilities": torch.eye(5)[label]} for label in labels]


@pytest.mark.parametrize(
    "head", [{"head_token": "class"}, {"head_token": "first_patch"}, {"head_token": "mean"}, {"merge": True}]
)
def test_every_head_gives_logits_a_loss_and_gradients(head):
    model = build_model(spec(**head))
    for name, parameter in model.named_parameters():
        if name.endswith("_gamma"):  # at their start, zeros, they let no gradient through to what they scale
            torch.nn.init.ones_(parameter)
    images = torch.rand(2, 3, 96, 64)

    losses = model(images, targets=of_classes(0, 4))
    losses["loss_cls"].backward()

    assert [list(p) for p in model.eval()(images)] == [["logits"]] * 2
    assert {p["logits"].shape for p in model(images)} == {(5,)}
    learns = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    # nobody who reads class tokens reads what the last exchange gives to the patches
    assert any(name.startswith("backbone.interactions.1.") for name in learns) == (head != {"head_token": "class"})
    assert any(name.startswith("backbone.interactions.0.") for name in learns)
    assert {name for name, _ in model.named_parameters() if name.startswith("head.")} <= learns


def test_the_loss_is_the_cross_entropy_with_soft_labels():
    model = build_model(spec())
    images = torch.rand(2, 3, 96, 96)
    logits = torch.stack([p["logits"] for p in model.eval()(images)])

    loss = model.train()(images, targets=[{"probabilities": torch.tensor([0.5, 0, 0.5, 0, 0])}] * 2)["loss_cls"]

    # -(log p_0 + log p_2) / 2, mean over the images
    torch.testing.assert_close(loss, -logits.log_softmax(dim=1)[:, [0, 2]].mean())


def test_class_tokens_sit_out_the_interactions():
    backbone = build_model(spec()).eval().backbone
    assert isinstance(backbone, PIIP)

    with torch.no_grad():
        tokens, grids = backbone.branch_tokens(torch.rand(1, 3, 96, 64))

    assert grids[0] == (12, 8)
    assert tokens[0].shape[1] == 1 + 12 * 8
    assert backbone.branches[0].pos_embed.shape[1] == 16 * 16  # no position for it


def test_reading_class_tokens_that_are_not_there_is_refused():
    with pytest.raises(ValueError, match=r"set class_token in every branch, or head_token to 'mean'"):
        build_model(spec(class_token=False, head_token="class"))


@pytest.mark.parametrize(
    "backbone",
    [CNNSpec(arch="resnet18", resolution=64), pico("TB", (64, 32), pretrained=False)],
    ids=lambda backbone: backbone.kind,
)
def test_any_backbone_is_classified_by_the_mean_of_its_coarsest_map(backbone):
    model = build_model(ModelSpec(backbone=backbone, head=ClassifierSpec(num_classes=5, reads="map"))).eval()
    images = torch.rand(2, 3, 64, 64)

    with torch.no_grad():
        (coarsest,) = model.backbone(images)
        logits = torch.stack([prediction["logits"] for prediction in model(images)])

    assert coarsest.shape[-2:] == (2, 2)
    torch.testing.assert_close(logits, model.head.head(coarsest.mean(dim=(2, 3))))
    model.train()(images, targets=of_classes(0, 4))["loss_cls"].backward()
    assert all(p.grad is not None for p in model.head.parameters())


def test_a_cnn_has_no_tokens_and_the_error_says_what_to_set():
    with pytest.raises(
        ValueError, match=r"this head reads the tokens .* \(a classifier also reads maps: model.head.reads=map\)"
    ):
        build_model(ModelSpec(backbone=CNNSpec(arch="resnet18", resolution=64), head=ClassifierSpec()))


def test_what_is_for_tokens_is_refused_beside_a_map():
    with pytest.raises(
        ValueError, match=r"reads 'map' takes the mean of a map: merge=True and head_token='mean' are for"
    ):
        ClassifierSpec(reads="map", merge=True)


def test_a_pico_branch_learns_a_norm_of_its_own_for_a_classifier():
    model = build_model(ModelSpec(backbone=pico("B", (64,)), head=ClassifierSpec(num_classes=5)))

    assert isinstance(model.head.own[0].norm, torch.nn.LayerNorm)
