"""What all semantic models share (modes, loss, decoding), and what is peculiar to some of them."""

import pytest
import torch
import torch.nn.functional as F

from vision.layers.encoding import Encoding
from vision.models import TrainStep, build_model
from vision.models.base import SegmentOutputs
from vision.models.encnet import present_classes
from vision.models.segmenter import nearest_labels
from vision.necks.jpu import JointPyramidUpsampling
from vision.structures import Targets


def semantic(labels):
    return Targets(*[torch.zeros(len(labels), 1)] * 4, semantic=labels)


def tiny(classes, name="unet", **options):
    torch.manual_seed(0)
    small = {"width": 2, "depth": 2} if name == "unet" else {}
    return build_model(name, classes, **small, **options)


def test_decode_takes_the_likeliest_class_and_crops():
    model = tiny(3)
    logits = torch.zeros(2, 3, 4, 6)
    logits[:, 2, :, 3:] = 5
    first, second = model.decode(SegmentOutputs(logits, []), torch.tensor([[4, 6], [2, 5]]))
    assert first.labels.tolist() == [[0, 0, 0, 2, 2, 2]] * 4
    assert second.labels.shape == (2, 5)
    assert second.scores is None
    (scored, _) = model.decode(SegmentOutputs(logits, []), scores=True)
    torch.testing.assert_close(scored.scores.sum(0), torch.ones(4, 6))


def test_binary_mode_has_one_logit_for_two_classes():
    model = tiny(2, mode="binary")
    images = torch.rand(1, 3, 8, 8)
    outputs = model.eval()(images)
    assert outputs.logits.shape == (1, 1, 8, 8)
    logits = torch.tensor([[[[-1.0, 1.0]]]])
    (found,) = model.decode(SegmentOutputs(logits, []), scores=True)
    assert found.labels.tolist() == [[0, 1]]
    torch.testing.assert_close(found.scores[1], logits[0, 0].sigmoid())
    (strict,) = model.decode(SegmentOutputs(logits, []), score_threshold=0.9)
    assert strict.labels.tolist() == [[0, 0]]
    with pytest.raises(ValueError, match="binary"):
        tiny(3, mode="binary")


def test_multilabel_mode_learns_and_reads_each_class_alone():
    model = tiny(3, mode="multilabel").train()
    masks = torch.randint(0, 2, (2, 3, 8, 8))
    masks[:, :, :2] = 255
    losses = TrainStep(model)(torch.rand(2, 3, 8, 8), semantic(masks))
    assert all(value.isfinite() for value in losses.values())
    logits = torch.tensor([[[[-1.0, 2.0]], [[-2.0, 3.0]], [[-3.0, -1.0]]]])  # (1, 3, 1, 2)
    (found,) = model.decode(SegmentOutputs(logits, []))
    assert found.labels.tolist() == [[255, 1]]
    torch.testing.assert_close(found.scores, logits[0].sigmoid())


def test_all_pixels_ignored_is_no_loss_but_a_gradient():
    model = tiny(3).train()
    losses = TrainStep(model)(torch.rand(2, 3, 8, 8), semantic(torch.full((2, 8, 8), 255)))
    total = sum(losses.values())
    assert float(total.detach()) == 0
    total.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_loss_without_semantic_maps_names_what_is_missing():
    model = tiny(3)
    with pytest.raises(ValueError, match="semantic"):
        model.loss(model(torch.rand(1, 3, 8, 8)), semantic(torch.zeros(1, 8, 8)).__class__(*[torch.zeros(1, 1)] * 4))


def test_auxiliary_loss_is_weighted_and_read_at_its_own_size():
    model = tiny(3, loss="ce")
    logits, deep = torch.randn(1, 3, 8, 8), torch.randn(1, 3, 4, 4)
    labels = torch.randint(0, 3, (1, 8, 8))
    losses = model.loss(SegmentOutputs(logits, [deep, deep]), semantic(labels))
    one = F.cross_entropy(deep, labels[:, 1::2, 1::2])  # the pixel under the centre of each coarse one
    torch.testing.assert_close(losses["auxiliary"], 0.4 * 2 * one)


def test_nearest_labels_are_those_under_the_centres():
    labels = torch.arange(6).view(1, 1, 6)
    assert nearest_labels(labels, (1, 3)).flatten().tolist() == [1, 3, 5]
    assert nearest_labels(labels, (1, 6)).flatten().tolist() == [0, 1, 2, 3, 4, 5]
    assert nearest_labels(labels, (2, 12)).shape == (1, 2, 12)


@pytest.mark.parametrize("channels", [1, 5])
def test_any_channel_count(channels):
    model = tiny(2, in_channels=channels).eval()
    assert model(torch.rand(1, channels, 9, 10)).logits.shape == (1, 2, 9, 10)
    with pytest.raises(ValueError, match="expected"):
        model(torch.rand(1, channels + 1, 9, 10))


def test_a_model_of_one_channel_reads_colours_as_grey():
    model = tiny(2, in_channels=1).eval()
    colours = torch.randint(0, 256, (1, 3, 9, 10), dtype=torch.uint8)
    grey = (0.299 * colours[:, :1] + 0.587 * colours[:, 1:2] + 0.114 * colours[:, 2:]) / 255
    with torch.no_grad():
        expected = model(grey).logits
        torch.testing.assert_close(model(colours).logits, expected)
        torch.testing.assert_close(model(colours / 255).logits, expected)


def test_valid_convolutions_see_a_mirrored_border():
    model = tiny(2, valid=True).eval()
    images = torch.rand(1, 3, 21, 34)
    with torch.no_grad():
        logits = model(images).logits
        assert logits.shape == (1, 2, 21, 34)
        # away from the border nothing of the margin is seen: a shift by the pooling's 4 px shifts the answer
        wide = F.pad(images, (4, 4, 4, 4), mode="reflect")
        torch.testing.assert_close(model(wide).logits[..., 4:25, 4:38], logits, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="valid"):
        build_model("unet", 2, backbone="resnet18", valid=True)


@pytest.mark.parametrize("options", [{"residual": True}, {"attention": True}, {"residual": True, "valid": True}])
def test_unet_variants_learn(options):
    model = tiny(2, **options).train()
    sum(TrainStep(model)(torch.rand(1, 3, 13, 16), semantic(torch.zeros(1, 13, 16).long())).values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_unet_takes_options_of_its_backbone():
    small = {"backbone": "resnet18", "backbone_options": {"width": 0.125, "levels": (2, 3, 4)}, "widths": (8, 8)}
    model = build_model("unet", 3, **small).eval()
    assert model.backbone.channels == (8, 16, 32)
    assert model(torch.rand(1, 3, 33, 47)).logits.shape == (1, 3, 33, 47)
    with pytest.raises(ValueError, match="width and depth"):
        build_model("unet", 3, backbone_options={"width": 0.5})


@pytest.mark.parametrize(("name", "rates"), [("deeplab_v1", 1), ("deeplab_v2", 4)])
def test_first_deeplabs_on_vgg_have_stride_8(name, rates):
    options = {"backbone": "vgg16", "hidden": 8, "backbone_options": {"width": 0.0625}}
    model = build_model(name, 3, **options).eval()
    assert model.backbone.strides == (8,)
    assert len(model.head.head.branches) == rates
    assert model(torch.rand(1, 3, 41, 50)).logits.shape == (1, 3, 41, 50)


@pytest.mark.parametrize("head", ["fcn", "psp", "deeplab", "encoding"])
def test_fastfcn_takes_every_head(head):
    options = {"backbone": "resnet18", "width": 8, "head": head, "backbone_options": {"width": 0.125}}
    assert build_model("fastfcn", 3, **options).eval()(torch.rand(1, 3, 40, 72)).logits.shape == (1, 3, 40, 72)


def test_fastfcn_names_the_heads():
    with pytest.raises(ValueError, match="encoding"):
        build_model("fastfcn", 3, backbone="resnet18", head="crf")


def test_joint_pyramid_upsampling_gives_the_size_of_stride_8():
    neck = JointPyramidUpsampling((4, 8, 16), 6).eval()
    features = [torch.randn(1, c, 36 // s, 60 // s) for c, s in ((4, 1), (8, 2), (16, 4))]
    out = neck(features)
    assert out[:2] == features[:2]
    assert out[-1].shape == (1, neck.out_channels, 36, 60) == (1, 24, 36, 60)
    with pytest.raises(ValueError, match="levels"):
        JointPyramidUpsampling((4, 8))


def test_encoding_is_the_papers_sum():
    layer = Encoding(3, 4).double()
    x = torch.randn(2, 3, 2, 5, dtype=torch.float64)
    places = x.flatten(2).transpose(1, 2)  # (2, 10, 3)
    residual = places[:, :, None] - layer.codewords  # (2, 10, 4, 3), equation 1 of arXiv:1803.08151 written out
    weight = (layer.scale * residual.square().sum(-1)).softmax(-1)
    torch.testing.assert_close(layer(x), (weight[..., None] * residual).sum(1))


def test_present_classes_do_not_count_ignored_pixels():
    labels = torch.tensor([[[0, 2], [255, 2]], [[255, 255], [255, 255]]])
    truth, known = present_classes(labels, 3)
    assert truth.tolist() == [[1, 0, 1], [0, 0, 0]]
    assert known.tolist() == [[True] * 3, [False] * 3]
    assert present_classes(torch.tensor([[[0, 1]], [[0, 255]]]), 1)[0].tolist() == [[1], [0]]
    truth, known = present_classes(torch.tensor([[[[0, 1]], [[255, 255]]]]), 2)
    assert (truth.tolist(), known.tolist()) == ([[1, 0]], [[True, False]])


def test_presence_is_not_learnt_from_an_image_without_a_known_pixel():
    model = build_model("encnet", 3, backbone="resnet18", width=8, backbone_options={"width": 0.125})
    known, unknown = torch.zeros(1, 8, 8).long(), torch.full((1, 8, 8), 255)
    presence = torch.tensor([[1.0, -2.0, 0.5], [3.0, 3.0, 3.0]])[..., None, None]
    outputs = SegmentOutputs(torch.zeros(2, 3, 8, 8), [presence])
    both = model.loss(outputs, semantic(torch.cat([known, unknown])))["presence"]
    # class 0 is there: -log of sigmoid(1), 1 - sigmoid(-2), 1 - sigmoid(0.5), and the paper's weight of 0.2
    expected = 0.2 * F.binary_cross_entropy_with_logits(presence[0, :, 0, 0], torch.tensor([1.0, 0, 0]))
    torch.testing.assert_close(both, expected)
    assert model.loss(outputs, semantic(torch.cat([unknown, unknown])))["presence"] == 0


@pytest.mark.parametrize("name", ["unet", "unet_plus_plus"])
def test_u_nets_take_the_levels_that_a_network_of_timm_has(name):
    pytest.importorskip("timm")
    model = build_model(name, 3, backbone="timm:pvt_v2_b0").eval()
    assert model.backbone.levels == (2, 3, 4, 5)
    assert model(torch.rand(1, 3, 33, 47)).logits.shape == (1, 3, 33, 47)


def test_a_network_that_cannot_dilate_says_what_to_set():
    pytest.importorskip("timm")
    for backbone in ("timm:pvt_v2_b0", "timm:vgg11"):  # timm raises TypeError or AssertionError
        with pytest.raises(ValueError, match="`output_stride: 32`"):
            build_model("fcn", 3, backbone=backbone)
    assert build_model("fcn", 3, backbone="timm:pvt_v2_b0", output_stride=32).backbone.strides == (16, 32)


@pytest.mark.parametrize("name", ["fcn_8s", "fcn_16s", "fcn_32s"])
def test_skip_networks_take_options_of_their_backbone(name):
    model = build_model(name, 3, backbone="resnet18", hidden=4, backbone_options={"width": 0.125})
    assert model.backbone.channels[-1] == 64  # 512 / 8


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["timm:pvt_v2_b0", "timm:convnext_atto"])
def test_segformer_on_timm_encoders(backbone):
    pytest.importorskip("timm")
    model = build_model("segformer", 3, backbone=backbone, width=16).train()
    losses = TrainStep(model)(torch.rand(2, 3, 67, 81), semantic(torch.randint(0, 3, (2, 67, 81))))
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", ["deeplab_v3_plus", "lraspp"])
def test_mobilenets_carry_the_light_heads(name):
    model = build_model(name, 3, backbone="mobilenet_v2", width=8, backbone_options={"taps": (3, 17), "width": 0.25})
    assert model.eval()(torch.rand(1, 3, 67, 81)).logits.shape == (1, 3, 67, 81)
