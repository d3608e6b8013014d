"""Every backbone keeps the contract: channels, strides, levels, dilation, options, gradients, export, compile."""

import pytest
import torch
from torch import nn

from vision.backbones import BackboneOptions, backbone_names, build_backbone
from vision.backbones.base import plan_stages

LIGHT = [
    "resnet18",
    "resnet50",
    "resnet18d",
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
]
HEAVY = sorted(set(backbone_names()) - set(LIGHT))


def check_contract(name, x, **options):
    backbone = build_backbone(name, **options).eval()
    with torch.no_grad():
        features = backbone(x)
    assert len(features) == len(backbone.channels) == len(backbone.strides) == len(backbone.levels)
    for feature, channels, stride in zip(features, backbone.channels, backbone.strides):
        assert feature.shape == (len(x), channels, -(-x.shape[2] // stride), -(-x.shape[3] // stride))
    return backbone


@pytest.mark.parametrize("name", LIGHT)
@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_shapes_on_an_odd_size(name, output_stride):
    backbone = check_contract(name, torch.rand(1, 3, 65, 97), output_stride=output_stride)
    assert backbone.strides == tuple(min(2**level, output_stride) for level in range(1, 6))


@pytest.mark.parametrize("name", HEAVY)
def test_shapes_of_the_large_ones(name):
    with torch.device("meta"):
        backbone = build_backbone(name)
        features = backbone(torch.rand(1, 3, 64, 96))
    assert [tuple(f.shape[1:]) for f in features] == [
        (c, 64 // s, 96 // s) for c, s in zip(backbone.channels, backbone.strides)
    ]


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet18d", "mobilenet_v1", "mobilenet_v2"])
def test_every_second_place_of_a_dilated_network_is_the_strided_one(name):
    """What the rule of the first block is for: dilation must not change what is computed, only how densely."""
    torch.manual_seed(0)
    strided, dilated = build_backbone(name, levels=(5,)), build_backbone(name, levels=(5,), output_stride=8)
    dilated.load_state_dict(strided.state_dict())
    x = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        ours = dilated.eval().double()(x)[0][..., ::4, ::4]
        expected = strided.eval().double()(x)[0]
    # ResNet-D averages over 2x2 in its shortcuts, so that its dilated variant is another function: shapes only
    if name == "resnet18d":
        assert ours.shape == expected.shape
    else:
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-9)


def test_dilation_rules():
    # strides 1, 2, 2, 2 from stride 4, held at 8: the third stage would reach 16, the fourth 32
    plans = plan_stages((1, 2, 2, 2), BackboneOptions(output_stride=8), total=4)
    assert [(p.stride, p.entry, p.dilation, p.total) for p in plans] == [
        (1, 1, 1, 4), (2, 1, 1, 8), (1, 1, 2, 8), (1, 2, 4, 8),
    ]  # fmt: skip
    uniform = plan_stages((1, 2, 2, 2), BackboneOptions(output_stride=8, dilation_rule="uniform"), total=4)
    assert [(p.entry, p.dilation) for p in uniform] == [(1, 1), (1, 1), (2, 2), (4, 4)]
    backbone = build_backbone("resnet50", output_stride=16, dilation_rule="uniform")
    assert {block.conv2.dilation for block in backbone.layer4} == {(2, 2)}


@pytest.mark.parametrize("norm", ["frozen_batch", "group", "layer", "instance", "rms"])
def test_norms_and_activations(norm):
    backbone = check_contract("resnet18", torch.rand(1, 3, 64, 64), norm=norm, activation="silu", levels=(2, 4))
    assert backbone.levels == (2, 4)
    assert not hasattr(backbone, "layer4")  # no parameters that no output depends on
    assert not [m for m in backbone.modules() if isinstance(m, nn.ReLU | nn.BatchNorm2d)]


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "mobilenet_v3_small", "vgg16"])
def test_no_bias_before_a_norm_and_a_gradient_for_every_parameter(name):
    torch.manual_seed(0)
    dropped = {} if name == "vgg16" else {"drop_path": 0.1}
    backbone = build_backbone(name, in_channels=1, width=0.5, **dropped).train()
    sum(f.square().mean() for f in backbone(torch.rand(8, 1, 64, 64))).backward()
    assert [key for key, p in backbone.named_parameters() if p.grad is None] == []
    if name != "vgg16":
        convolutions = [m for n, m in backbone.named_modules() if isinstance(m, nn.Conv2d) and ".fc" not in n]
        assert not any(conv.bias is not None for conv in convolutions)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("csp_n", {"init": "xavier_uniform"}),
        ("csp_n", {"output_stride": 16}),
        ("mobilenet_v1", {"zero_init_residual": True}),
        ("vgg16", {"drop_path": 0.2}),
        ("vgg16_bn", {"dilation_rule": "uniform"}),
    ],
)
def test_what_a_backbone_cannot_follow_is_refused_by_name(name, options):
    with pytest.raises(ValueError, match=f"{name}.*{next(iter(options))}"):
        build_backbone(name, **options)


def test_csp_follows_width_and_refuses_levels_that_it_lacks():
    assert build_backbone("csp_s", width=0.5).channels == build_backbone("csp_n").channels
    with pytest.raises(ValueError, match=r"levels \(3, 9\)"):
        build_backbone("csp_n", levels=(3, 9))


def test_zero_init_residual_makes_blocks_the_identity_at_first():
    backbone = build_backbone("resnet18", zero_init_residual=True, levels=(2,)).eval()
    x = torch.rand(1, 64, 8, 8)
    torch.testing.assert_close(backbone.layer1(x), x)
    assert not build_backbone("mobilenet_v2", zero_init_residual=True).features[3].block[-1][1].weight.any()


def test_taps_replace_levels():
    backbone = build_backbone("mobilenet_v3_large", taps=(4, "13.expand", 16)).eval()
    assert (backbone.channels, backbone.strides) == ((40, 672, 960), (8, 16, 32))
    features = backbone(torch.rand(1, 3, 64, 64))
    assert [tuple(f.shape) for f in features] == [(1, 40, 8, 8), (1, 672, 4, 4), (1, 960, 2, 2)]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet19", {}, "resnet18"),
        ("resnet18", {"strides": 8}, "output_stride"),
        ("resnet18", {"output_stride": 4}, "8, 16 or 32"),
        ("resnet18", {"levels": (6,)}, "levels"),
        ("resnet18", {"levels": ()}, "levels"),
        ("resnet18", {"taps": (1,)}, "MobileNets"),
        ("resnet18", {"dilation_rule": "smp"}, "uniform"),
        ("resnet18", {"width": 0.0}, "positive"),
        ("resnet18", {"drop_path": 1.0}, "drop_path"),
    ],
)
def test_wrong_options_are_refused_with_the_right_ones(name, options, message):
    with pytest.raises(ValueError, match=message):
        build_backbone(name, **options)


@pytest.mark.parametrize("name", ["resnet18", pytest.param("mobilenet_v3_small", marks=pytest.mark.slow)])
def test_compile_and_bfloat16(name):
    backbone = build_backbone(name, levels=(1, 2, 3)).eval().to(memory_format=torch.channels_last)
    x = torch.rand(1, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        compiled = torch.compile(backbone, fullgraph=True, backend="aot_eager")(x)
        expected = backbone(x)
        torch.testing.assert_close(compiled, expected, rtol=1e-4, atol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            features = backbone(x)
    assert all(f.is_contiguous(memory_format=torch.channels_last) for f in features)
    assert (features[-1].float() - expected[-1]).abs().max() < 0.1 * expected[-1].abs().max() + 1e-3


@pytest.mark.parametrize("name", ["resnet18", "regnety_002", "convnext_atto"])
def test_timm(name):
    pytest.importorskip("timm")
    backbone = build_backbone(f"timm:{name}", levels=(2, 3, 5)).eval()
    features = backbone(torch.rand(1, 3, 64, 64))
    assert backbone.strides == (4, 8, 32)
    assert [f.shape[1] for f in features] == list(backbone.channels)
    assert [f.shape[-1] for f in features] == [16, 8, 2]


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "mvitv2_tiny"])
def test_timm_networks_that_were_made_for_one_size_take_any(name):
    pytest.importorskip("timm")
    backbone = build_backbone(f"timm:{name}", levels=(2, 5)).eval()
    with torch.no_grad():
        assert [f.shape[-2:] for f in backbone(torch.rand(1, 3, 64, 96))] == [(16, 24), (2, 3)]


def test_timm_says_what_it_cannot_do():
    pytest.importorskip("timm")
    with pytest.raises(ValueError, match="224 x 224 pixels alone"):
        build_backbone("timm:coat_lite_mini")
    with pytest.raises(ValueError, match="does not know"):
        build_backbone("timm:resnet19")
    with pytest.raises(ValueError, match="no choice of norm"):
        build_backbone("timm:resnet18", norm="group")
