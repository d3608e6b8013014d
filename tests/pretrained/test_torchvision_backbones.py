"""torchvision's classification networks and ours give the same features from the same weights."""

import pytest
import torch
import torchvision
from torch import nn

from vision.backbones import build_backbone
from vision.pretrained.torchvision_backbones import convert_backbone_state, load_backbone_state


def randomise(network, seed=0):
    """Batch-norm statistics and affine parameters away from their initial values, so that they matter."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.running_mean, module.bias.data):
                value.copy_(torch.randn(value.shape, generator=generator) * 0.1)
            for value in (module.running_var, module.weight.data):
                value.copy_(torch.rand(value.shape, generator=generator) * 0.5 + 0.75)
    return network.eval()


def deepest(network, x):
    if hasattr(network, "features"):
        return network.features(x)
    x = network.maxpool(network.relu(network.bn1(network.conv1(x))))
    return network.layer4(network.layer3(network.layer2(network.layer1(x))))


def check(name, options, theirs):
    ours = build_backbone(name, **options).eval()
    load_backbone_state(ours, theirs.state_dict())
    x = torch.rand(1, 3, 65, 81)
    with torch.no_grad():
        expected, features = deepest(theirs, x), ours(x)
    scale = expected.abs().max()
    assert scale > 1e-3  # the comparison below says something
    torch.testing.assert_close(features[-1] / scale, expected / scale, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "theirs"),
    [
        ("resnet18", {}, {}),
        ("resnet34", {}, {}),
        ("resnet50", {}, {}),
        ("resnet50", {"output_stride": 16}, {"replace_stride_with_dilation": [False, False, True]}),
        ("resnet50", {"output_stride": 8}, {"replace_stride_with_dilation": [False, True, True]}),
        ("resnext50_32x4d", {"output_stride": 8}, {"replace_stride_with_dilation": [False, True, True]}),
        ("mobilenet_v2", {}, {}),
        ("mobilenet_v2", {"width": 0.35}, {"width_mult": 0.35}),
        ("mobilenet_v3_small", {}, {}),
        ("mobilenet_v3_small", {"output_stride": 16}, {"dilated": True}),
        ("mobilenet_v3_large", {"width": 0.75}, {"width_mult": 0.75}),
        ("mobilenet_v3_large", {"output_stride": 16}, {"dilated": True}),
    ],
    ids=str,
)
def test_same_features(name, options, theirs):
    torch.manual_seed(0)
    check(name, options, randomise(getattr(torchvision.models, name)(**theirs)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["resnet101", "resnet152", "resnext101_32x8d", "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2", "vgg16"],
)
def test_same_features_of_the_large_ones(name):
    torch.manual_seed(0)
    # VGG's features end behind the last pooling, as our level 5 does
    check(name, {}, randomise(getattr(torchvision.models, name)()))


@pytest.mark.parametrize("output_stride", [8, 16])
def test_vgg_is_dilated_as_in_deeplab(output_stride):
    # section 3.1 of arXiv:1412.7062: the last pooling(s) keep the size, the convolutions behind one see every 2nd pixel
    torch.manual_seed(0)
    theirs = torchvision.models.vgg16().features.eval()
    state = {f"features.{key}": value for key, value in theirs.state_dict().items()}
    theirs[30] = nn.MaxPool2d(3, 1, padding=1)
    if output_stride == 8:
        theirs[23] = nn.MaxPool2d(3, 1, padding=1)
        for index in (24, 26, 28):
            theirs[index].dilation = theirs[index].padding = (2, 2)
    ours = build_backbone("vgg16", output_stride=output_stride).eval()
    load_backbone_state(ours, state)
    assert ours.strides == (2, 4, 8, min(16, output_stride), output_stride)
    x = torch.rand(1, 3, 40, 56)
    with torch.no_grad():
        torch.testing.assert_close(ours(x)[-1], theirs(x))


def test_strict_about_everything_but_the_classifier():
    theirs = torchvision.models.mobilenet_v3_small().state_dict()
    ours = build_backbone("mobilenet_v3_small")
    assert set(convert_backbone_state(theirs)) == set(ours.state_dict())
    with pytest.raises(RuntimeError, match="Unexpected"):
        load_backbone_state(ours, {**theirs, "extra.weight": torch.zeros(1)})
    del theirs["features.0.0.weight"]
    with pytest.raises(RuntimeError, match="Missing"):
        load_backbone_state(ours, theirs)


def test_stages_that_no_level_asks_for_are_left_out_by_name():
    theirs = torchvision.models.resnet18()
    ours = build_backbone("resnet18", levels=(2, 4))
    load_backbone_state(ours, theirs.state_dict())
    assert torch.equal(ours.layer3[0].conv1.weight, theirs.layer3[0].conv1.weight)
    mobile = build_backbone("mobilenet_v2", levels=(1, 3))
    load_backbone_state(mobile, torchvision.models.mobilenet_v2().state_dict())
