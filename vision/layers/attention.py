"""Attention over channels."""

from __future__ import annotations

from torch import Tensor, nn

from vision.layers.activation import build_activation
from vision.layers.pooling import image_mean

__all__ = ["SqueezeExcitation"]


class SqueezeExcitation(nn.Module):
    """(B, C, H, W) scaled a channel by a gate in [0, 1] computed from the channel means (arXiv:1709.01507).

    MobileNetV3 gates with the hard sigmoid. State-dict keys fc1, fc2 as torchvision's. `inplace`, for inference,
    writes over the input.
    """

    inplace = False

    def __init__(self, channels: int, squeezed: int, *, activation: str = "relu", hard: bool = False):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.activation = build_activation(activation)
        self.gate = nn.Hardsigmoid() if hard else nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate(self.fc2(self.activation(self.fc1(image_mean(x)))))  # (B, C, 1, 1)
        return x.mul_(gate) if self.inplace else x * gate
