"""The convolution block: bias rule, same padding, torchvision's keys."""

import pytest
import torch
from torchvision.ops import Conv2dNormActivation

from vision.layers.conv import ConvNormAct, GroupedConv2d, run_on_small_map, scaled_channels


@pytest.mark.parametrize(("norm", "bias"), [("batch", False), ("group", False), (None, True), ("none", True)])
def test_a_convolution_has_a_bias_only_where_no_norm_follows(norm, bias):
    assert (ConvNormAct(4, 8, norm=norm).conv.bias is not None) == bias


@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (3, 1), (3, 4), (5, 2), ((1, 7), 1)])
def test_size_is_kept_at_stride_one(kernel, dilation):
    assert ConvNormAct(4, 8, kernel, dilation=dilation)(torch.rand(1, 4, 11, 13)).shape == (1, 8, 11, 13)


def test_same_keys_and_values_as_torchvision():
    theirs = Conv2dNormActivation(4, 8, 3, 2).eval()
    ours = ConvNormAct(4, 8, 3, 2).eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.rand(2, 4, 9, 9)
    assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize(
    ("channels", "expected"),
    # 22.4 -> 24; 35 -> 32 (91 % of it); 12 -> 16 (8 would be 67 %); 11 -> 16 (8 is 73 %); 3 -> 8, the smallest
    [(22.4, 24), (35, 32), (12, 16), (11, 16), (3, 8)],
)
def test_scaled_channels(channels, expected):
    assert scaled_channels(channels) == expected


def test_padding_and_activation_by_choice():
    block = ConvNormAct(3, 4, 3, padding=0, norm=None, activation=None)
    assert len(block) == 1
    assert block(torch.rand(1, 3, 5, 5)).shape == (1, 4, 3, 3)


def test_strided_convolution_of_one_place_has_its_gradient_in_bfloat16():
    # the plain bfloat16 convolution returns whatever the memory held: fill it with large values first
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(64, 64, 3, 2, 1)
    for size in (1, 2):
        conv.zero_grad()
        x = torch.randn(2, 64, size, size)
        junk = [torch.full((64 * 64 * 9,), 1e30) for _ in range(8)]
        del junk
        with torch.autocast("cpu", torch.bfloat16):
            out = run_on_small_map(conv, x)
        out.float().sum().backward()
        expected = torch.autograd.grad(conv(x).sum(), conv.weight)[0]
        torch.testing.assert_close(conv.weight.grad, expected, atol=0.1, rtol=0.1)


@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "groups"), [(8, 3, 1, 8), (8, 3, 2, 8), (8, 5, 1, 8), (16, 3, 1, 4)]
)
def test_grouped_convolutions_and_their_gradients_are_those_of_float32(channels, kernel, stride, groups):
    torch.manual_seed(0)
    conv = GroupedConv2d(channels, channels, kernel, stride, kernel // 2, groups=groups)
    x = torch.randn(2, channels, 9, 10).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = conv(x)
        with torch.no_grad():
            torch.testing.assert_close(conv(x), found.detach(), atol=0.02, rtol=0.02)
    assert found.dtype == torch.bfloat16
    expected = torch.nn.Conv2d.forward(conv, x.float())
    torch.testing.assert_close(found.float(), expected, atol=0.02, rtol=0.02)
    ours, theirs = (torch.autograd.grad(one.float().sum(), (conv.weight, x)) for one in (found, expected))
    torch.testing.assert_close(ours[0], theirs[0], atol=0.05, rtol=0.02)
    torch.testing.assert_close(ours[1], theirs[1], atol=0.05, rtol=0.02)
