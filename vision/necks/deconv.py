"""Upsampling by transposed convolutions (Simple Baselines, arXiv:1804.06208), deformable on request (CenterNet)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import DeformConv2d

from vision.layers.activation import build_activation
from vision.layers.conv import ConvNormAct
from vision.layers.norm import Norm, build_norm

__all__ = ["Deconvolutions", "DeformableConv"]


class DeformableConv(nn.Module):
    """A modulated deformable 3x3 convolution (arXiv:1811.11168), norm and ReLU: starts as an ordinary one.

    (B, in, H, W) -> (B, out, H, W). Exports to ONNX only where torchvision's operator does.
    """

    full_precision = True  # the operator has no kernel for less

    def __init__(self, in_channels: int, out_channels: int, norm: Norm = "batch"):
        super().__init__()
        self.offsets = nn.Conv2d(in_channels, 27, 3, padding=1)
        self.conv = DeformConv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm = build_norm(norm, out_channels)
        self.activation = build_activation("relu")
        nn.init.zeros_(self.offsets.weight)
        nn.init.zeros_(self.offsets.bias)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            predicted = self.offsets(x)
            x = self.conv(x, predicted[:, :18], 2 * predicted[:, 18:].sigmoid())
        return self.activation(self.norm(x))


class Deconvolutions(nn.Module):
    """Doubles the size once for each of `channels`: (B, in, h, w) -> (B, channels[-1], 2**n h, 2**n w).

    Each step is a 3x3 convolution, `deformable` or not, and a 4x4 transposed convolution that starts as bilinear
    interpolation.
    """

    def __init__(
        self,
        in_channels: int,
        channels: Sequence[int] = (256, 128, 64),
        *,
        deformable: bool = False,
        norm: Norm = "batch",
    ):
        super().__init__()
        self.channels = channels[-1]
        steps: list[nn.Module] = []
        for before, after in zip((in_channels, *channels), channels):
            steps.append(DeformableConv(before, after, norm) if deformable else ConvNormAct(before, after, norm=norm))
            up = nn.ConvTranspose2d(after, after, 4, 2, 1, bias=False)
            steps += [up, build_norm(norm, after), build_activation("relu")]
            _draw_bilinear(up)
        self.steps = nn.Sequential(*steps)

    def forward(self, x: Tensor) -> Tensor:
        return self.steps(x)


def _draw_bilinear(convolution: nn.ConvTranspose2d) -> None:
    """Each channel to itself with the weights of bilinear interpolation by two."""
    line = torch.tensor([0.25, 0.75, 0.75, 0.25])
    with torch.no_grad():
        convolution.weight.zero_()
        index = torch.arange(convolution.in_channels)
        convolution.weight[index, index] = line[:, None] * line
