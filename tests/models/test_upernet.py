import pytest
import torch
import torch.nn.functional as F
from torch import nn

from piip.contracts import IGNORE
from piip.counting.cost import cost
from piip.models import build_model
from piip.models.heads.upernet import UPerNet, pixel_loss
from piip.presets import pico
from piip.spec import ModelSpec, UPerNetSpec

CHANNELS = (8, 12, 16, 20)
SPEC = UPerNetSpec(num_classes=5, channels=6)
NETWORK = ModelSpec(backbone=pico("TB", (64, 32), pretrained=False), head=SPEC)


def maps(images=2, side=64):
    generator = torch.Generator().manual_seed(3)
    return [
        torch.randn(images, c, side // s, side // s, generator=generator)
        for c, s in zip(CHANNELS, (4, 8, 16, 32), strict=True)
    ]


def labels(images=2, side=64):
    drawn = torch.randint(0, 5, (images, side, side), generator=torch.Generator().manual_seed(4))
    return [{"labels": label} for label in drawn]


def test_losses_are_of_both_heads_with_the_auxiliary_one_at_its_weight():
    head = UPerNet(CHANNELS, SPEC.model_copy(update={"dropout": 0.0}))
    features, targets = maps(), labels()

    losses = head(features, [(64, 64)] * 2, targets)

    wanted = torch.stack([t["labels"] for t in targets])
    main, beside = head.decode(features), head.auxiliary(features[2])
    assert main.shape == (2, 5, 16, 16)
    expected = [F.cross_entropy(F.interpolate(x, (64, 64), mode="bilinear"), wanted) for x in (main, beside)]
    torch.testing.assert_close(losses, {"loss_seg": expected[0], "loss_aux": 0.4 * expected[1]})


def test_the_decoder_is_mmsegmentations_wired_by_hand():
    decode = UPerNet(CHANNELS, SPEC).eval().decode
    c2, c3, c4, c5 = maps(images=1, side=96)

    def up(x, like):
        return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=False)

    pooled = [
        up(conv(F.adaptive_avg_pool2d(c5, s)), c5) for s, conv in zip((1, 2, 3, 6), decode.psp_modules, strict=True)
    ]
    p5 = decode.bottleneck(torch.cat([c5, *pooled], 1))
    p4 = decode.lateral_convs[2](c4) + up(p5, c4)
    p3 = decode.lateral_convs[1](c3) + up(p4, c3)
    p2 = decode.lateral_convs[0](c2) + up(p3, c2)
    levels = [decode.fpn_convs[0](p2), up(decode.fpn_convs[1](p3), c2), up(decode.fpn_convs[2](p4), c2), up(p5, c2)]
    expected = decode.conv_seg(decode.fpn_bottleneck(torch.cat(levels, 1)))

    torch.testing.assert_close(decode([c2, c3, c4, c5]), expected)


def test_pixels_without_a_label_weigh_nothing_and_a_batch_of_them_is_zero():
    logits, label = torch.randn(2, 5, 4, 4), torch.randint(0, 5, (2, 4, 4))
    label[0] = IGNORE

    # as mmsegmentation: the sum over labelled pixels, divided by all
    torch.testing.assert_close(pixel_loss(logits, label), F.cross_entropy(logits[1:], label[1:]) / 2)
    assert pixel_loss(logits, torch.full_like(label, IGNORE)) == 0


def test_every_parameter_gets_a_gradient():
    model = build_model(NETWORK)

    sum(model(torch.rand(2, 3, 64, 64), None, labels()).values()).backward()

    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("size", [(64, 64), (70, 99), (40, 64)])
def test_logits_are_of_the_inputs_content_even_where_no_stride_divides_it(size):
    model = build_model(NETWORK.override({"head.inference": "whole"})).eval()

    with torch.no_grad():
        predictions = model(torch.rand(2, 3, *size))

    assert [prediction["logits"].shape for prediction in predictions] == [(5, *size)] * 2


def test_padding_is_cut_off():
    head = UPerNet(CHANNELS, SPEC).eval()

    with torch.no_grad():
        whole, cut = (head(maps(images=1), [size])[0]["logits"] for size in ((64, 64), (50, 33)))

    torch.testing.assert_close(cut, whole[:, :50, :33])


def test_one_image_a_worker_is_refused_where_pooling_leaves_batchnorm_one_value(monkeypatch):
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: False)  # whatever ran before in this process
    head = UPerNet(CHANNELS, SPEC)

    with pytest.raises(ValueError, match="UperNet cannot train on one image a worker"):
        head(maps(images=1), [(64, 64)], labels(images=1))

    without = UPerNet(CHANNELS, SPEC.model_copy(update={"pool_scales": (2, 3)}))
    assert set(without(maps(images=1), [(64, 64)], labels(images=1))) == {"loss_seg", "loss_aux"}
    shared = nn.SyncBatchNorm.convert_sync_batchnorm(head)
    with pytest.raises(
        ValueError, match="Expected more than 1 value per channel"
    ):  # PyTorch's own, which counts all workers
        shared(maps(images=1), [(64, 64)], labels(images=1))


def test_heads_run_in_fp32_under_autocast_unless_told_otherwise():
    head, seen = UPerNet(CHANNELS, SPEC), []
    head.decode.conv_seg.register_forward_hook(lambda _, __, out: seen.append(out.dtype))

    for fp32 in (True, False):
        head.fp32_heads = fp32
        with torch.autocast("cpu", torch.bfloat16):
            losses = head([m.bfloat16() for m in maps()], [(64, 64)] * 2, labels())
        assert {loss.dtype for loss in losses.values()} == {torch.float32}

    assert seen == [torch.float32, torch.bfloat16]
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert head.eval()([m.bfloat16() for m in maps(images=1)], [(64, 64)])[0]["logits"].dtype == torch.float32


def test_cost_counts_what_evaluation_computes_and_all_parameters():
    counted = cost(NETWORK, 64, 64)
    head = build_model(NETWORK).head

    assert counted.of_head == {"decode", "auxiliary"}
    assert counted.parts["auxiliary"][0] == 0
    # the 3x3 bottleneck of the pyramid alone: 16 x 16 cells, 9 taps, 4 x 6 channels to 6
    assert counted.parts["decode"][0] > 16 * 16 * 9 * 24 * 6 / 1e9
    assert counted.parts["auxiliary"][1] == sum(p.numel() for p in head.auxiliary.parameters()) / 1e6


def test_the_probe_gives_logits_of_the_padded_input_and_the_auxiliary_ones_in_training_only():
    head = UPerNet(CHANNELS, SPEC)

    shapes = {
        mode: {name: [out.shape for out in call()] for name, call in head.train(mode).probe(maps()).items()}
        for mode in (True, False)
    }

    whole = [(2, 5, 64, 64)]
    assert shapes == {True: {"decode": whole, "auxiliary": whole}, False: {"decode": whole, "auxiliary": []}}


def test_statistics_are_the_only_buffers():
    head = UPerNet(CHANNELS, SPEC)

    norms = [module for module in head.modules() if isinstance(module, nn.BatchNorm2d)]

    # 4 pooled, bottleneck, 3 lateral, 3 outputs, the last bottleneck; 1 auxiliary
    assert len(norms) == 13
    assert len(list(head.buffers())) == 3 * len(norms)


def test_it_begins_as_mmsegmentations_does():
    torch.manual_seed(0)
    head = UPerNet(CHANNELS, UPerNetSpec(num_classes=40, channels=64))

    for name, module in head.named_modules():
        if name.endswith(".conv"):  # He's rule over what goes out
            outwards = module.kernel_size[0] ** 2 * module.out_channels
            assert module.weight.std().item() == pytest.approx((2 / outwards) ** 0.5, rel=0.15), name
            assert module.bias is None
        if name.endswith("conv_seg"):
            assert module.weight.std().item() == pytest.approx(0.01, rel=0.1)
            assert not module.bias.any()


def test_whole_channels_are_dropped_before_either_classifier():
    head = UPerNet(CHANNELS, SPEC.model_copy(update={"channels": 64, "dropout": 0.5})).train()
    seen = []
    for part in (head.decode, head.auxiliary):
        part.conv_seg.register_forward_pre_hook(lambda _, given: seen.append(given[0]))

    head(maps(), [(64, 64)] * 2, labels())

    for feature in seen:
        gone = (feature == 0).all(dim=3).all(dim=2).float().mean().item()
        assert 0.3 < gone < 0.7
    assert len(seen) == 2
