"""Norms by name: shapes, what they normalise over, frozen batch norm against torchvision's."""

from functools import partial

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from vision.layers.norm import NORMS, FrozenBatchNorm, build_norm, replace_norms
from vision.models import build_model


@pytest.mark.parametrize("name", sorted(set(NORMS) - {"sync_batch"}))
@pytest.mark.parametrize("channels", [8, 36])
def test_every_norm_keeps_shape_and_passes_a_gradient(name, channels):
    x = torch.rand(2, channels, 5, 7, requires_grad=True)
    y = build_norm(name, channels)(x)
    assert y.shape == x.shape
    (y * torch.rand_like(y)).sum().backward()
    assert x.grad.abs().sum() > 0


def test_layer_and_rms_normalise_the_channels_of_each_place():
    x = torch.randn(2, 16, 3, 4) * 5 + 2
    layer = build_norm("layer", 16)(x)
    torch.testing.assert_close(layer.mean(1), torch.zeros(2, 3, 4), atol=1e-5, rtol=0)
    torch.testing.assert_close(layer.var(1, unbiased=False), torch.ones(2, 3, 4), atol=1e-4, rtol=0)
    rms = build_norm("rms", 16)(x)
    torch.testing.assert_close(rms.square().mean(1), torch.ones(2, 3, 4), atol=1e-4, rtol=0)


def test_group_norm_takes_32_groups_or_the_most_that_divide():
    assert build_norm("group", 64).num_groups == 32
    assert build_norm("group", 36).num_groups == 18


@pytest.mark.parametrize("channels", [2, 16, 32, 33])
def test_a_group_has_two_channels_or_more_so_that_one_pixel_can_be_normalised(channels):
    norm = build_norm("group", channels)
    assert channels // norm.num_groups >= 2
    assert torch.isfinite(norm(torch.randn(1, channels, 1, 1))).all()


def test_frozen_batch_norm_equals_torchvision_and_loads_a_trained_one():
    trained = nn.BatchNorm2d(6)
    for value in trained.state_dict().values():
        value.copy_(torch.rand(value.shape) * 3 + 0.1)
    frozen, theirs = FrozenBatchNorm(6), FrozenBatchNorm2d(6)
    frozen.load_state_dict(trained.state_dict())
    theirs.load_state_dict(trained.state_dict())
    x = torch.randn(2, 6, 4, 4)
    frozen.train()
    torch.testing.assert_close(frozen(x), theirs(x))
    torch.testing.assert_close(frozen(x), trained.eval()(x))
    assert not list(frozen.parameters())


def test_instance_norm_of_one_pixel():
    norm = build_norm("instance", 4)
    norm.weight.data.fill_(2.0)
    norm.bias.data.fill_(1.0)
    x = torch.randn(3, 4, 1, 1)
    assert torch.equal(norm(x), 2 * x + 1)
    assert norm(torch.randn(3, 4, 5, 5)).mean().item() == pytest.approx(1, abs=1e-5)


def test_a_function_a_missing_norm_and_an_unknown_name():
    assert build_norm(partial(nn.BatchNorm2d, eps=1e-3), 4).eps == 1e-3
    assert isinstance(build_norm(None, 4), nn.Identity)
    assert isinstance(build_norm("sync_batch", 4), nn.SyncBatchNorm)
    with pytest.raises(ValueError, match="frozen_batch"):
        build_norm("bach", 4)


# a norm option of their own: U-Net alone; backbones: CSP, MobileNet, VGG's relatives, ResNet
@pytest.mark.parametrize("name", ["yolo_n", "ssdlite320_mobilenet_v3_small", "unet", "fcos_resnet18_fpn", "lraspp"])
@pytest.mark.parametrize("norm", ["instance", "rms"])
def test_a_norm_in_place_of_every_batch_norm_of_a_model(name, norm):
    torch.manual_seed(0)
    model = build_model(name, 3, norms=norm).eval()
    assert model.arguments == {"name": name, "norms": norm}
    kind = type(build_norm(norm, 8))
    assert sum(isinstance(module, kind) for module in model.modules()) > 5
    assert not [module for module in model.modules() if isinstance(module, nn.BatchNorm2d | FrozenBatchNorm)]
    with torch.no_grad():
        outputs = model(torch.rand(1, 3, 128, 128))
    assert outputs.logits.isfinite().all()


@pytest.mark.parametrize("name", ["encnet", "fastfcn"])
@pytest.mark.parametrize("norm", sorted(set(NORMS) - {"sync_batch"}))
def test_the_norm_over_codes_is_replaced_too(name, norm):
    torch.manual_seed(0)
    model = build_model(name, 3, norms=norm, backbone="resnet18", width=16, backbone_options={"width": 0.25}).train()
    expected = nn.BatchNorm1d if norm == "batch" else type(build_norm(norm, 32))
    assert type(model.head.code_norm) is expected
    outputs = model(torch.rand(2, 3, 64, 64))
    sum(outputs.auxiliary[0].flatten()).backward()
    assert outputs.logits.isfinite().all()


def test_norms_of_codes_normalise_as_on_maps():
    codes = torch.randn(2, 8, 5)  # (B, K, C)
    for name in set(NORMS) - {"batch", "sync_batch"}:
        norm = build_norm(name, 8)
        torch.testing.assert_close(norm(codes), norm(codes[..., None])[..., 0])
    instance = build_norm("instance", 8)(codes)
    torch.testing.assert_close(instance.mean(-1), torch.zeros(2, 8), atol=1e-5, rtol=0)


def test_replaced_norms_keep_their_scale_and_are_refused_where_there_are_none():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
    model[1].weight.data.fill_(3.0)
    replace_norms(model, "group")
    assert isinstance(model[1], nn.GroupNorm)
    assert (model[1].weight == 3).all()
    with pytest.raises(ValueError, match="Sequential has no batch norm that 'rms'"):
        replace_norms(model, "rms")
    with pytest.raises(ValueError, match="choose one of: batch"):
        build_model("yolo_n", 3, norms="weight")


@pytest.mark.parametrize("norm", ["batch", partial(nn.BatchNorm2d, eps=1e-3, momentum=0.03)])
def test_batch_norm_trains_on_a_single_value_by_its_running_statistics(norm):
    built, x = build_norm(norm, 4).train(), torch.rand(1, 4, 1, 1)
    built.running_mean += 0.5
    torch.testing.assert_close(built(x), (x - 0.5) / (1 + built.eps) ** 0.5)
    assert built.num_batches_tracked == 0
    plain = nn.BatchNorm2d(4, built.eps, built.momentum).train()
    many = torch.rand(2, 4, 3, 3)
    torch.testing.assert_close(built(many), plain(many))
