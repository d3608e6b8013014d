"""Noise while training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["GaussianNoise"]


class GaussianNoise(nn.Module):
    """Adds noise of standard deviation `std` to each value while training (Bishop, Neural Computation 7, 1995)."""

    def __init__(self, std: float):
        super().__init__()
        if std < 0:
            raise ValueError(f"GaussianNoise: std {std}; expected 0 or more")
        self.std = std

    def forward(self, x: Tensor) -> Tensor:
        return x + self.std * torch.randn_like(x) if self.training and self.std else x

    def extra_repr(self) -> str:
        return f"std={self.std}"
