import pytest
import torch

from piip.models import build_model
from piip.models.heads.classifier import Classifier
from piip.presets import PICO, piip
from piip.spec import ClassifierSpec, InteractionSpec, ModelSpec


def spec(*, class_token: bool = True, **head) -> ModelSpec:
    branches = {
        letter: branch.override({"window": None, "class_token": class_token, "pretrained": False})
        for letter, branch in PICO.items()
    }
    backbone = piip("TB", (96, 64), branches=branches, interaction=InteractionSpec(count=2, num_heads=4))
    return ModelSpec(backbone=backbone.override({"fpn": "none"}), head=ClassifierSpec(num_classes=5, **head))


@pytest.mark.parametrize(
    "head", [{"head_token": "class"}, {"head_token": "first_patch"}, {"head_token": "mean"}, {"merge": True}]
)
def test_every_head_gives_logits_a_loss_and_gradients(head):
    model = build_model(spec(**head))
    images = torch.rand(2, 3, 96, 64)

    losses = model(images, torch.tensor([0, 4]))
    losses["loss_cls"].backward()

    assert model.eval()(images).shape == (2, 5)
    unused = {name for name, p in model.named_parameters() if p.grad is None}
    assert all(
        "cls_token" in name for name in unused
    )  # a merged head reads patches; first_patch too, after the last exchange


def test_soft_labels_are_labels():
    model = build_model(spec()).eval()
    images = torch.rand(2, 3, 96, 96)

    hard = model(images, torch.tensor([1, 3]))["loss_cls"]
    soft = model(images, torch.eye(5)[[1, 3]])["loss_cls"]

    torch.testing.assert_close(hard, soft)


def test_class_tokens_sit_out_the_interactions():
    model = build_model(spec()).eval()
    assert isinstance(model, Classifier)
    branch = model.backbone.branches[0]

    with torch.no_grad():
        tokens, grids = model.backbone.branch_tokens(torch.rand(1, 3, 96, 64))

    assert grids[0] == (12, 8)
    assert tokens[0].shape[1] == 1 + 12 * 8
    assert branch.pos_embed.shape[1] == 16 * 16  # no position for it


def test_reading_class_tokens_that_are_not_there_is_refused():
    with pytest.raises(ValueError, match=r"set class_token in every branch, or head_token to 'mean'"):
        build_model(spec(class_token=False, head_token="class"))
