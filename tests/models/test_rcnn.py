import pytest
import torch
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import roi_align

from piip.models import build_model
from piip.models.heads.boxes import Anchors, RoIPool
from piip.models.heads.mask_loss import mask_loss
from piip.models.heads.roi_heads import box_losses
from piip.ops import mask_runs
from piip.ops.mask_runs import runs_of
from piip.presets import PICO, PICO_HEAD, piip
from piip.spec import CNNSpec, InteractionSpec, ModelSpec

BACKBONES = {
    "piip": piip("TB", (96, 64), branches=PICO, interaction=InteractionSpec(count=2, num_heads=4)),
    "cnn": CNNSpec(arch="resnet18", resolution=96),
}
LOSSES = {"loss_objectness", "loss_rpn_box", "loss_classifier", "loss_box", "loss_mask"}
SIZES = [(96, 64), (80, 60)]


def model_of(kind):
    torch.manual_seed(0)
    model = build_model(ModelSpec(backbone=BACKBONES[kind], head=PICO_HEAD), pretrained=False)
    for name, parameter in model.named_parameters():
        if name.endswith("gamma") and "interactions" in name:
            torch.nn.init.constant_(parameter, 0.5)
    return model


def target(*boxes, size=(96, 64)):
    masks = torch.zeros(len(boxes), *size, dtype=torch.uint8)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = 1
    labels = torch.arange(1, len(boxes) + 1)
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": labels,
        "mask_runs": runs_of(masks),
    }


TARGETS = [target((4, 4, 40, 40), (10, 50, 60, 90)), target((0, 0, 30, 70), size=(80, 60))]
EMPTY = [target(), target(size=(80, 60))]


@pytest.mark.parametrize("kind", BACKBONES)
@pytest.mark.parametrize("targets", [TARGETS, [TARGETS[0], EMPTY[1]], EMPTY], ids=["full", "one_empty", "empty"])
def test_every_loss_is_finite_and_every_parameter_has_a_gradient(kind, targets):
    model = model_of(kind)

    losses = model(torch.rand(2, 3, 96, 64), SIZES, targets)
    sum(losses.values()).backward()

    assert set(losses) == LOSSES
    assert all(loss.isfinite() for loss in losses.values())
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@pytest.mark.parametrize("kind", BACKBONES)
def test_predictions_are_boxes_labels_scores_masks(kind):
    model = model_of(kind).eval()

    with torch.no_grad():
        predictions = model(torch.rand(2, 3, 96, 64), SIZES)

    for prediction, (height, width) in zip(predictions, SIZES, strict=True):
        count = len(prediction["scores"])
        assert 0 < count <= 100
        assert prediction["boxes"].shape == (count, 4)
        assert prediction["masks"].shape == (count, 1, 28, 28)
        assert prediction["labels"].min() >= 1
        assert prediction["labels"].max() <= 12
        assert (prediction["scores"].diff() <= 0).all()
        assert 0 <= prediction["masks"].min() <= prediction["masks"].max() <= 1
        assert (prediction["boxes"].amax(0) <= torch.tensor([width, height, width, height])).all()


def test_padding_below_and_right_does_not_move_strides():
    """The content fills a quarter of the padded map: strides still come from the padded size."""
    features = [torch.arange(32.0).expand(1, 1, 32, 32), *(torch.zeros(1, 1, s, s) for s in (16, 8, 4))]

    pooled = RoIPool(output_size=1)(features, [torch.tensor([[40.0, 40.0, 60.0, 60.0]])])

    # the middle of the box, x = 50, is at 50 / 4 - 0.5 = 12 cells
    torch.testing.assert_close(pooled.flatten(), torch.tensor([12.0]))


def test_boxes_are_pooled_from_the_level_that_fits_in_the_order_given():
    features = [torch.full((2, 3, 1024 // s, 1024 // s), float(s)) for s in (4, 8, 16, 32)]
    boxes = [torch.tensor([[0.0, 0, 500, 500], [0, 0, 100, 100]]), torch.tensor([[0.0, 0, 112, 112], [0, 0, 400, 400]])]

    pooled = RoIPool(output_size=7)(features, boxes)

    assert pooled.shape == (4, 3, 7, 7)
    assert pooled[:, 0, 3, 3].tolist() == [32, 4, 8, 16]


def test_no_boxes_pool_to_nothing():
    features = [torch.zeros(1, 3, 64 // s, 64 // s) for s in (4, 8, 16, 32)]

    assert RoIPool(output_size=7)(features, [torch.zeros(0, 4)]).shape == (0, 3, 7, 7)


def test_no_proposals_cost_nothing_and_keep_the_graph():
    logits, deltas = torch.zeros(0, 5, requires_grad=True), torch.zeros(0, 20, requires_grad=True)

    losses = box_losses(logits, deltas, torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))
    sum(losses.values()).backward()

    assert [loss.item() for loss in losses.values()] == [0, 0]
    assert logits.grad is not None


def test_box_losses_by_hand():
    logits = torch.zeros(2, 3)  # log 3 each
    deltas = torch.zeros(2, 3, 4)
    deltas[0, 2] = torch.tensor([1.0, 0, 0, -1])
    deltas[0, 1] = 100  # another class's boxes do not count, nor do those of background
    deltas[1] = 100

    losses = box_losses(logits, deltas.flatten(1), torch.tensor([2, 0]), torch.zeros(2, 4))

    assert losses["loss_classifier"].item() == pytest.approx(1.0986, abs=1e-4)
    assert losses["loss_box"].item() == pytest.approx((1 + 1) / 2)


def test_no_proposals_no_predictions():
    model = model_of("cnn").eval()
    model.head.rpn.score_thresh = 2.0  # nothing passes

    with torch.no_grad():
        (prediction,) = model(torch.rand(1, 3, 96, 64), [(96, 64)])

    assert {name: len(value) for name, value in prediction.items()} == dict.fromkeys(
        ("boxes", "labels", "scores", "masks"), 0
    )


@pytest.mark.parametrize("kind", BACKBONES)
def test_bf16_trains_and_predicts(kind):
    model = model_of(kind)

    with torch.autocast("cpu", torch.bfloat16):
        losses = model(torch.rand(2, 3, 96, 64), SIZES, TARGETS)
        sum(losses.values()).backward()
        with torch.no_grad():
            predictions = model.eval()(torch.rand(2, 3, 96, 64), SIZES)

    assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in losses.values())
    assert predictions[0]["boxes"].dtype == torch.float32


@pytest.mark.parametrize("fp32", [True, False])
def test_heads_compute_in_bf16_only_where_they_may(fp32):
    model, layers = model_of("piip"), {}
    model.head.fp32_heads = fp32
    for name in (
        "head.rpn.head.cls_logits",
        "head.roi_heads.box_predictor.bbox_pred",
        "head.roi_heads.mask_predictor.mask_fcn_logits",
    ):
        model.get_submodule(name).register_forward_hook(
            lambda *called, name=name: layers.update({name: called[2].dtype})
        )
    images = torch.rand(2, 3, 96, 64)

    def losses(bf16):
        torch.manual_seed(1)  # the samplers of proposals
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return model(images, SIZES, TARGETS)

    low = losses(True)
    assert set(layers.values()) == {torch.float32 if fp32 else torch.bfloat16}
    assert all(loss.dtype == torch.float32 for loss in low.values())
    full = losses(False)
    for name in ("loss_objectness", "loss_rpn_box", "loss_classifier"):  # those of few positive proposals are of others
        assert low[name].item() == pytest.approx(full[name].item(), rel=0.05), name


def test_evaluation_of_an_image_does_not_depend_on_its_neighbour():
    model = model_of("piip").eval()
    images = torch.rand(2, 3, 96, 64)

    with torch.no_grad():
        together = model(images, [(96, 64)] * 2)[1]
        alone = model(images[1:], [(96, 64)])[0]

    torch.testing.assert_close(together["boxes"], alone["boxes"], atol=1e-3, rtol=0)


def test_training_without_targets_is_refused():
    with pytest.raises(ValueError, match="targets are needed in training"):
        model_of("cnn")(torch.rand(1, 3, 64, 64), [(64, 64)])


def test_anchors_have_the_published_sides_and_places():
    images = ImageList(torch.zeros(2, 3, 672, 672), [(672, 672), (600, 500)])
    features = [torch.zeros(2, 8, side, side) for side in (168, 84, 42, 21, 11)]

    anchors, _ = Anchors([8], strides=(4, 8, 16, 32, 64))(images, features)

    assert len(anchors) == 3 * (168**2 + 84**2 + 42**2 + 21**2 + 11**2)
    # scale 8 * stride 4 = 32 pixels; ratio 1 is the second of the three, around the corner of its cell
    assert anchors[1].tolist() == [-16, -16, 16, 16]
    assert anchors[3 * 168 + 3 + 1].tolist() == [-12, -12, 20, 20]
    # ratio 1/2 is wide, of the same area
    width, height = (anchors[0, 2:] - anchors[0, :2]).tolist()
    assert (width / height, width * height) == (pytest.approx(2), pytest.approx(1024))
    # the last level's stride is 64, although 672 / 11 is 61
    centre = (anchors[-1, :2] + anchors[-1, 2:]) / 2
    assert centre.tolist() == [640, 640]


@pytest.mark.slow
def test_the_head_learns_to_find_a_square():
    """Twenty steps on one image: the losses fall."""
    torch.manual_seed(0)
    model = model_of("cnn")
    images = torch.zeros(1, 3, 96, 64)
    images[:, :, 20:60, 10:50] = 1
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    history = []
    for _ in range(20):
        loss = sum(model(images, [(96, 64)], [target((10, 20, 50, 60))]).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())

    assert min(history[-5:]) < 0.5 * history[0]


def test_a_perfect_mask_prediction_has_no_loss_and_pastes_back_where_it_was():
    # a 28 x 28 px square object: in a proposal of its size every cell is one pixel
    masks = torch.zeros(1, 40, 56, dtype=torch.uint8)
    masks[0, 7:35, 14:42] = 1
    box = torch.tensor([[14.0, 7.0, 42.0, 35.0]])  # 28 x 28 px: one cell a pixel
    target = {"boxes": box, "labels": torch.tensor([2]), "mask_runs": runs_of(masks)}
    shifted = torch.tensor([[18.0, 7.0, 46.0, 35.0]])  # the right four columns of cells lie outside the object
    perfect = torch.full((2, 4, 28, 28), -20.0)
    perfect[0, 2], perfect[1, 2] = 20.0, 20.0
    perfect[1, 2, :, -4:] = -20.0

    loss = mask_loss(perfect, [torch.cat([box, shifted])], [target], [torch.tensor([0, 0])], [(40, 56)])

    assert loss < 1e-6


def test_the_truth_of_every_proposal_is_its_objects_whole_mask_inside_it(monkeypatch):
    """Whatever the number of masks that are made at once."""
    rng = torch.Generator().manual_seed(0)
    masks = (torch.rand(5, 40, 56, generator=rng) < 0.8).to(torch.uint8)
    corner = torch.rand(20, 2, generator=rng) * torch.tensor([60.0, 40.0]) - 4  # some reach over the edge
    boxes = torch.cat([corner, corner + 20 * torch.rand(20, 2, generator=rng)], dim=1)
    objects = torch.randint(5, (20,), generator=rng)
    target = {"labels": torch.ones(5, dtype=torch.int64), "mask_runs": runs_of(masks)}
    logits = torch.randn(20, 2, 28, 28, generator=rng)
    rois = torch.cat([objects[:, None].float(), boxes], dim=1)
    truth = roi_align(masks[:, None].float(), rois, (28, 28), aligned=True)[:, 0] >= 0.5
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 1], truth.float())

    for pixels in (1, 2 * 40 * 56, 10**9):
        monkeypatch.setattr(mask_runs, "PIXELS_AT_ONCE", pixels)
        assert mask_loss(logits, [boxes], [target], [objects], [(40, 56)]) == expected
