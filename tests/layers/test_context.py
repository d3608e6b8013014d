"""Spatial pyramids against PyTorch's own operations."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vision.layers.context import (
    ASPP,
    AtrousConv,
    ImagePooling,
    PyramidPooling,
    atrous_rates,
)
from vision.layers.pooling import adaptive_average, image_mean
from vision.layers.resize import double, resize, resize_logits


@pytest.mark.parametrize(("height", "width", "bins"), [(12, 18, 6), (7, 10, 3), (5, 4, 6), (9, 9, 1), (13, 6, 2)])
def test_adaptive_average_is_pytorchs(height, width, bins):
    x = torch.randn(2, 3, height, width)
    torch.testing.assert_close(adaptive_average(x, bins), F.adaptive_avg_pool2d(x, bins), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(9, 15), (15, 9), (5, 6), (20, 21)])  # rate 12 exceeds none, one or both sides
@pytest.mark.parametrize("groups", [1, 4])
def test_atrous_convolution_leaves_out_only_what_meets_padding(size, groups):
    conv = AtrousConv(4, 8, 12, groups=groups)
    x = torch.randn(2, 4, *size, requires_grad=True)
    expected = F.conv2d(x, conv.weight, None, 1, 12, 12, groups)
    torch.testing.assert_close(conv(x), expected, atol=1e-5, rtol=1e-5)
    (gradient,) = torch.autograd.grad(conv(x).square().sum(), conv.weight)
    (by_torch,) = torch.autograd.grad(expected.square().sum(), conv.weight)
    torch.testing.assert_close(gradient, by_torch, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("kernel", "rate"), [(3, 2), (5, 2), (3, 4), (3, 12), (5, 4)])
@pytest.mark.parametrize("size", [(8, 12), (7, 9), (1, 3), (50, 61)])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_depthwise_convolution_on_a_cpu_is_the_dilated_one(kernel, rate, size, precision):
    torch.manual_seed(0)
    conv = AtrousConv(6, 6, rate, kernel=kernel, groups=6)
    conv.bias = nn.Parameter(torch.randn(6))
    x = torch.randn(2, 6, *size, requires_grad=True)
    expected = F.conv2d(x, conv.weight, conv.bias, 1, kernel // 2 * rate, rate, 6)
    tolerance = 1e-4 if precision == torch.float32 else 0.05
    close = {"atol": tolerance, "rtol": tolerance}
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        found = conv(x)
        with torch.inference_mode():
            torch.testing.assert_close(conv(x).float(), expected, **close)
    torch.testing.assert_close(found.float(), expected, **close)
    up = torch.randn_like(expected)
    for of in (conv.weight, conv.bias, x):
        (gradient,) = torch.autograd.grad((found.float() * up).sum(), of, retain_graph=True)
        (by_torch,) = torch.autograd.grad((expected * up).sum(), of, retain_graph=True)
        scale = float(by_torch.abs().max())
        torch.testing.assert_close(gradient / scale, by_torch / scale, **close)


@pytest.mark.parametrize("shape", [(2, 5, 7, 9), (1, 3, 1, 1), (1, 8, 64, 64)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_mean_of_an_image_is_summed_in_float32(shape, dtype):
    x = (1 + torch.rand(shape)).to(dtype).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        found = image_mean(x)
    assert found.dtype == dtype
    assert torch.allclose(
        found.double(), x.double().mean((2, 3), keepdim=True), rtol=1e-6 if dtype.itemsize == 4 else 4e-3
    )


@pytest.mark.parametrize("size", [(5, 7), (1, 4)])
@pytest.mark.parametrize("target", [(10, 14), (40, 56), (15, 21), (20, 14), (8, 32), (3, 4), (4, 16)])
@pytest.mark.parametrize("align_corners", [False, True])
def test_logits_at_full_size_are_interpolated(size, target, align_corners):
    logits = torch.randn(2, 3, *size).to(memory_format=torch.channels_last).bfloat16()
    expected = F.interpolate(logits.float(), size=target, mode="bilinear", align_corners=align_corners)
    with torch.inference_mode():
        found = resize_logits(logits, target, align_corners=align_corners)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert found.is_contiguous()
    learnt = logits.clone().requires_grad_()
    resize_logits(learnt, target, align_corners=align_corners).sum().backward()
    assert learnt.grad.shape == logits.shape


def test_atrous_rates_follow_the_output_stride():
    assert [atrous_rates(stride) for stride in (8, 16, 32)] == [(12, 24, 36), (6, 12, 18), (3, 6, 9)]
    with pytest.raises(ValueError, match="output stride"):
        atrous_rates(4)


def test_image_pooling_of_one_image_uses_running_statistics():
    layer = ImagePooling(3, 2).train()
    layer.project[1].running_mean.fill_(0.5)
    x = torch.randn(1, 3, 4, 5, requires_grad=True)
    found = layer(x)  # nn.BatchNorm2d alone raises: one value a channel
    torch.testing.assert_close(found, layer.eval()(x))
    assert found.shape == (1, 2, 4, 5)
    found.sum().backward()
    assert x.grad is not None


def test_image_pooling_of_a_batch_uses_its_statistics():
    layer = ImagePooling(3, 2).train()
    before = layer.project[1].running_mean.clone()
    layer(torch.randn(2, 3, 4, 5))
    assert not torch.equal(before, layer.project[1].running_mean)


@pytest.mark.parametrize("separable", [False, True])
def test_aspp_keeps_the_size(separable):
    layer = ASPP(6, 4, (1, 2, 30), separable=separable).train()
    x = torch.randn(1, 6, 5, 7)
    out = layer(x)
    assert out.shape == (1, 4, 5, 7)
    out.sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())


def test_pyramid_pooling_joins_the_map_and_its_means():
    layer = PyramidPooling(8).eval()
    for level in layer.levels:  # each level passes its first two channels on
        conv = level.project[0] if isinstance(level, ImagePooling) else level[0]
        nn.init.zeros_(conv.weight)
        conv.weight.data[[0, 1], [0, 1]] = 1
    x = torch.rand(2, 8, 6, 12)
    out = layer(x)
    assert out.shape == (2, layer.out_channels, 6, 12) == (2, 16, 6, 12)
    assert torch.equal(out[:, :8], x)
    mean = x[:, :2].mean((2, 3), keepdim=True).expand(2, 2, 6, 12) / (1 + 1e-5) ** 0.5  # the norm's epsilon
    torch.testing.assert_close(out[:, 8:10], mean)


def test_double_is_nearest_upsampling_with_its_gradient():
    x = torch.randn(2, 3, 4, 5, requires_grad=True)
    expected = F.interpolate(x, scale_factor=2, mode="nearest")
    assert torch.equal(double(x), expected)
    weight = torch.randn_like(expected)
    (a,) = torch.autograd.grad((double(x) * weight).sum(), x)
    (b,) = torch.autograd.grad((expected * weight).sum(), x)
    torch.testing.assert_close(a, b)


def test_resize_leaves_equal_sizes_alone():
    x = torch.randn(1, 2, 4, 5)
    assert resize(x, (4, 5)) is x
    assert torch.equal(resize(x, (7, 9), "nearest"), F.interpolate(x, size=(7, 9), mode="nearest"))
    aligned = F.interpolate(x, size=(7, 9), mode="bilinear", align_corners=True)
    assert torch.equal(resize(x, (7, 9), align_corners=True), aligned)


@pytest.mark.parametrize("bias", [False, True])
def test_many_channels_in_bfloat16_are_summed_in_parts(bias):
    torch.manual_seed(0)
    conv = AtrousConv(600, 4, 6)
    if bias:  # as behind a folded norm
        conv.bias = torch.nn.Parameter(torch.randn(4))
    x = torch.randn(1, 600, 13, 17).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = conv(x)
    assert found.dtype == torch.bfloat16
    expected = torch.nn.Conv2d.forward(conv, x.float())
    torch.testing.assert_close(found.float(), expected, atol=0.03, rtol=0.02)
    ours, theirs = (torch.autograd.grad(one.float().sum(), (conv.weight, x)) for one in (found, expected))
    torch.testing.assert_close(ours[0], theirs[0], atol=0.2, rtol=0.02)
    torch.testing.assert_close(ours[1], theirs[1], atol=0.02, rtol=0.02)
