import pytest
import torch
import torch.nn.functional as F
from dino_golden import CHANNELS, FACTORS, SAID, SIZES, SPEC, features, golden_head, outputs, targets

from piip.counting.cost import cost
from piip.models import build_model
from piip.models.heads.dino.attention import PyramidAttention
from piip.models.heads.dino.head import DINO
from piip.models.heads.dino.losses import losses_of, matched
from piip.models.heads.dino.objects import Objects
from piip.models.heads.dino.positions import grid_of, logit
from piip.models.layers.statistics import mean_over_workers
from piip.models.speed import switch_network
from piip.presets import pico
from piip.spec import DINOSpec, ModelSpec, SpeedSpec

TINY = SPEC.model_copy(update={"num_classes": 12})
NETWORK = ModelSpec(backbone=pico("TB", (64, 32), pretrained=False), head=TINY)
PARTS = ("", "layers_", "proposals_", "denoising_")
KEYS = {f"loss_{part}{name}" for part in PARTS for name in ("class", "box", "giou")}
BOTH = pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-5), (torch.float32, 1e-4)], ids=["fp64", "fp32"])


def nothing(images=2):
    return [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}] * images


def run(head, dtype):
    """Neck, proposals and all layers of the golden's head."""
    maps = head._maps(features(dtype))
    grid = grid_of(maps, SIZES, 8)
    cells = head.encoder(maps, grid)
    proposals = head.selection(cells, grid)
    return maps, proposals, head.decoder(proposals[1], cells, grid)


@BOTH
def test_maps_proposals_and_every_layer_are_the_official_codes(dtype, atol):
    wanted = outputs()

    with torch.no_grad():
        maps, proposals, decoded = run(golden_head(dtype), dtype)

    ours = dict(zip(("neck0", "neck1", "neck2", "neck3"), maps, strict=True))
    ours |= dict(zip(("enc_topk_score", "enc_topk_anchor", "cls", "box"), (*proposals, *decoded), strict=True))
    for name, value in ours.items():
        torch.testing.assert_close(value, wanted[name].to(dtype), atol=atol, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


@BOTH
def test_detections_are_the_official_codes(dtype, atol):
    with torch.no_grad():
        found = golden_head(dtype).eval()(features(dtype), SIZES)

    for image, (prediction, factor) in enumerate(zip(found, FACTORS, strict=True)):
        wanted = outputs()[f"det{image}"].to(dtype)
        # pixels of images of 150 and 160: 100 times the parts they are made of
        torch.testing.assert_close(prediction["boxes"] / factor, wanted[:, :4], atol=100 * atol, rtol=0)
        torch.testing.assert_close(prediction["scores"], wanted[:, 4], atol=atol, rtol=0)
        assert (prediction["labels"] - 1).tolist() == outputs()[f"lab{image}"].tolist()


@BOTH
def test_the_nine_losses_are_the_official_codes(dtype, atol):
    _, proposals, decoded = run(golden_head(dtype), dtype)
    logits, boxes = (torch.cat([one[None], other]) for one, other in zip(proposals, decoded, strict=True))
    objects = Objects.of(targets(dtype), SIZES)

    found = losses_of(logits, boxes, matched(logits, boxes, objects), objects, torch.tensor(5.0, dtype=dtype))

    official = {"class": "loss_cls", "box": "loss_bbox", "giou": "loss_iou"}
    for name, theirs in official.items():
        wanted = [SAID["losses"][f"{place}{theirs}"] for place in ("interm_", "d0.", "")]
        torch.testing.assert_close(found[name].tolist(), wanted, atol=atol, rtol=atol / 10)


def test_the_head_gives_them_by_part_beside_those_of_noised_objects():
    losses = golden_head(torch.float64).train()(features(torch.float64), SIZES, targets(torch.float64))

    theirs = {"loss_class": "loss_cls", "loss_box": "loss_bbox", "loss_giou": "loss_iou"}
    theirs |= {ours.replace("loss_", "loss_layers_"): f"d0.{name}" for ours, name in theirs.items()}
    theirs |= {f"loss_proposals_{name.split('_')[1]}": f"interm_{theirs[name]}" for name in list(theirs)[:3]}
    assert losses.keys() == KEYS
    for ours, name in theirs.items():
        assert losses[ours].item() == pytest.approx(SAID["losses"][name], rel=1e-5)


@pytest.mark.parametrize("given", [targets(), [targets()[0], nothing()[0]], nothing()], ids=["both", "one", "none"])
def test_losses_have_the_same_keys_and_every_parameter_a_gradient_whatever_there_is(given):
    model = build_model(NETWORK).train()

    losses = model(torch.rand(2, 3, 64, 64), None, given)
    sum(losses.values()).backward()

    assert losses.keys() == KEYS
    assert all(loss.ndim == 0 and loss.isfinite() for loss in losses.values())
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_padding_changes_no_cell_and_no_proposal():
    """In the decoder it does, in the official code, too: where a query is, is said in parts of the padded image."""
    head = golden_head(torch.float64)
    # 128 x 128 of content, of which the coarsest level has 2 x 2 cells; padded to 192 columns
    cut = [f[:1, :, :, : 128 // stride] for f, stride in zip(features(torch.float64), (8, 16, 32), strict=True)]
    found = []
    with torch.no_grad():
        own = head.neck(cut)  # whose norms see padding, in the official code, too
        wide = [F.pad(m, (0, 192 // stride - m.shape[3])) for m, stride in zip(own, (8, 16, 32, 64), strict=True)]
        for maps in (own, wide):
            grid = grid_of(maps, [(128, 128)], 8)
            cells = head.encoder(maps, grid)
            content = cells if grid.padding is None else cells[~grid.padding][None]
            found.append((content, *head.selection(cells, grid)))

    assert [m.shape[3] for m in wide] == [24, 12, 6, 3]
    torch.testing.assert_close(found[0], found[1], atol=1e-9, rtol=0)


def test_a_cell_is_content_where_its_first_pixel_is():
    """As a mask of pixels becomes a mask of cells by nearest neighbours in the official code."""
    maps = [torch.zeros(2, 1, 16, 20), torch.zeros(2, 1, 8, 10), torch.zeros(2, 1, 4, 5), torch.zeros(2, 1, 2, 3)]
    sizes = [(128, 150), (97, 160)]
    pixels = torch.ones(2, 1, 128, 160)
    for image, (height, width) in enumerate(sizes):
        pixels[image, :, :height, :width] = 0
    wanted = [F.interpolate(pixels, m.shape[2:], mode="nearest").flatten(1).bool() for m in maps]

    grid = grid_of(maps, sizes, 8)

    assert torch.equal(grid.padding, torch.cat(wanted, 1))
    assert grid_of(maps, [(128, 160)] * 2, 8).padding is None


def test_a_layers_box_teaches_the_correction_before_it_and_none_further_back():
    """Look forward twice; and the decoder teaches no proposal where to be."""
    head = DINO(CHANNELS, SPEC.model_copy(update={"decoder_layers": 3}))
    maps = head.neck(features())
    grid = grid_of(maps, SIZES, 8)
    cells = head.encoder(maps, grid).detach()
    proposed = head.selection(cells, grid)[1]

    _, boxes = head.decoder(proposed, cells, grid)
    boxes[2].square().sum().backward()

    taught = [mlp[-1].weight.grad is not None and bool(mlp[-1].weight.grad.any()) for mlp in head.decoder.boxes]
    assert taught == [False, True, True]
    assert proposed.requires_grad
    assert all(parameter.grad is None for parameter in head.selection.parameters())


def test_zero_3_finds_every_tensor_that_a_layer_with_weights_gives():
    """It gathers the weights of a layer again when the gradient comes to what that layer gave: a tensor, or a tuple of them."""
    head, given = golden_head(), {}
    for name, module in head.named_modules():
        if list(module.parameters(recurse=False)):
            module.register_forward_hook(lambda _, __, out, name=name: given.setdefault(name, out))

    head(features(), SIZES, targets())

    holders = {name.rpartition(".")[0] for name, _ in head.named_parameters()}
    assert set(given) == holders  # none is read behind the back of its layer's call
    for out in given.values():
        assert all(isinstance(each, torch.Tensor) for each in (out if isinstance(out, tuple) else (out,)))


def test_small_images_have_fewer_queries_and_many_objects_take_them_all():
    head = DINO(CHANNELS, SPEC.model_copy(update={"num_queries": 50, "max_detections": 300}))
    maps = [feature[:1, :, :1, :1] for feature in features()]  # 8 x 8 pixels: a cell on each of four levels
    boxes = torch.rand(9, 4).sort(-1).values * 8
    crowd = [{"boxes": boxes[:, [0, 1, 2, 3]], "labels": torch.ones(9, dtype=torch.long)}]

    losses = head(maps, [(8, 8)], crowd)
    (found,) = head.eval()(maps, [(8, 8)])

    assert all(loss.isfinite() for loss in losses.values())
    assert found["scores"].shape == (4 * 5,)
    assert (found["scores"].diff() <= 0).all()
    assert found["labels"].unique().tolist() == [1, 2, 3, 4, 5]
    assert (found["boxes"].min() >= 0, found["boxes"].max() <= 8) == (True, True)


def test_a_loss_that_is_not_finite_is_told_and_not_stumbled_over():
    head = golden_head()
    torch.nn.init.constant_(head.selection.linear.bias, float("nan"))

    losses = head(features(), SIZES, targets())

    assert losses["loss_proposals_class"].isnan()


def test_sums_are_divided_by_what_a_worker_has_in_the_mean(monkeypatch):
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    monkeypatch.setattr("torch.distributed.all_reduce", lambda counts: counts.add_(torch.tensor([1.0, 7.0])))
    mine = torch.tensor([0.0, 3.0])

    assert mean_over_workers(mine).tolist() == [1.0, 5.0]
    assert mine.tolist() == [0.0, 3.0]


def test_the_head_runs_in_fp32_under_autocast_unless_told_otherwise():
    head, seen = golden_head(), {"value_proj": [], "sampling_offsets": []}
    for name, dtypes in seen.items():
        layer = getattr(head.decoder.layers[0].attention, name)
        layer.register_forward_hook(lambda _, __, out, dtypes=dtypes: dtypes.append(out.dtype))
    halves = [feature.bfloat16() for feature in features()]

    for fp32 in (True, False):
        head.fp32_heads = fp32
        with torch.autocast("cpu", torch.bfloat16):
            losses = head.train()(halves, SIZES, targets())
            found = head.eval()(halves, SIZES)
        assert {loss.dtype for loss in losses.values()} == {torch.float32}
        assert {found[0]["boxes"].dtype, found[0]["scores"].dtype} == {torch.float32}

    # in training and in evaluation; places are in fp32 either way
    assert seen == {
        "value_proj": [torch.float32] * 2 + [torch.bfloat16] * 2,
        "sampling_offsets": [torch.float32] * 4,
    }


@pytest.mark.parametrize(("kernel", "taken"), [("reference", "reference"), ("cpp", "cpp"), ("triton", "auto")])
def test_the_kernel_is_chosen_as_for_interactions_and_triton_has_none_for_pyramids(kernel, taken):
    head = DINO(CHANNELS, SPEC)

    switch_network(head, SpeedSpec(kernel=kernel))

    assert {module.kernel for module in head.modules() if isinstance(module, PyramidAttention)} == {taken}


def test_cost_counts_neck_encoder_selection_and_decoder():
    counted = cost(NETWORK, 64, 64)
    head = build_model(NETWORK).head

    # 8 x 8, 4 x 4, 2 x 2 and 1 cells of 32 channels
    cells, queries, dim, hidden, samples = 64 + 16 + 4 + 1, 12, 32, 64, 8 * 4 * 4
    attention = (
        dim * dim + dim * 3 * samples + 5 * samples * dim // 8
    )  # per query: output; places and weights; sampling
    layer = cells * (dim * dim + attention + 2 * dim * hidden)
    assert counted.parts["encoder"][0] == pytest.approx(2 * layer / 1e9)
    boxes = 2 * dim * dim + 4 * dim
    assert counted.parts["selection"][0] == pytest.approx(cells * (dim * dim + 12 * dim + boxes) / 1e9)
    among = 4 * dim * dim + 2 * queries * dim
    query = among + attention + 2 * dim * hidden + 3 * dim * dim + 12 * dim + 2 * boxes
    assert counted.parts["decoder"][0] == pytest.approx(2 * (queries * query + cells * dim * dim) / 1e9)
    assert counted.of_head == {"neck", "encoder", "selection", "decoder"}
    assert sum(counted.parts[name][1] for name in counted.of_head) == pytest.approx(
        sum(p.numel() for p in head.parameters()) / 1e6
    )


def test_training_memory_is_of_queries_and_as_many_noised_objects_as_there_may_be():
    head = golden_head()

    shapes = {}
    for training in (True, False):
        parts = head.train(training).probe(features())
        shapes[training] = {name: [tuple(out.shape) for out in part()] for name, part in parts.items()}

    # a good and a bad one in each of 100 groups of one object
    assert shapes[True]["decoder"] == [(2, 2, 200 + 12, 5), (2, 2, 200 + 12, 4)]
    assert shapes[False]["decoder"] == [(2, 2, 12, 5), (2, 2, 12, 4)]
    assert shapes[True]["selection"] == [(2, 12, 5), (2, 12, 4)]
    assert shapes[True]["neck"] == shapes[True]["encoder"] == []


def test_logits_are_the_sigmoids_inverse_a_thousandth_from_its_ends():
    values = torch.tensor([-0.5, 0.0, 0.25, 1.0, 2.0])

    torch.testing.assert_close(
        logit(values).sigmoid(), torch.tensor([1 / 1001, 1 / 1001, 0.25, 1000 / 1001, 1000 / 1001])
    )


@pytest.mark.parametrize(("dim", "complaint"), [(36, r"8 \(num_heads\)"), (40, r"32 \(norm_groups\)")])
def test_channels_that_do_not_divide_are_refused(dim, complaint):
    with pytest.raises(ValueError, match=f"embed_dim {dim} does not divide by {complaint}"):
        DINOSpec(embed_dim=dim)
