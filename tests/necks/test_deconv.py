import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vision.necks.deconv import Deconvolutions, DeformableConv


def test_eight_times_the_size():
    neck = Deconvolutions(32, (16, 8, 4))
    assert neck.channels == 4
    assert neck(torch.randn(2, 32, 3, 5)).shape == (2, 4, 24, 40)


def test_transposed_convolutions_start_as_bilinear_interpolation():
    up = next(module for module in Deconvolutions(4, (4,)).modules() if isinstance(module, nn.ConvTranspose2d))
    x = torch.randn(1, 4, 6, 7)
    expected = F.interpolate(x, scale_factor=2, mode="bilinear")
    torch.testing.assert_close(up(x)[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1])  # the border sees padding


def test_deformable_convolution_starts_as_an_ordinary_one_and_learns_offsets():
    layer = DeformableConv(3, 5).eval()
    x = torch.randn(1, 3, 8, 9)
    expected = F.relu(F.conv2d(x, layer.conv.weight, padding=1) / (1 + layer.norm.eps) ** 0.5)
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)
    layer(x).square().sum().backward()
    assert layer.offsets.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("deformable", [False, True])
def test_bfloat16_autocast(deformable):
    neck = Deconvolutions(8, (8, 4), deformable=deformable)
    with torch.autocast("cpu", torch.bfloat16):
        out = neck(torch.randn(1, 8, 4, 4))
    assert out.shape == (1, 4, 16, 16)
    assert out.isfinite().all()
