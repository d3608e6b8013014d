"""The default boxes of SSD (arXiv:1512.02325, section 2.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["DefaultBoxes", "linear_scales"]


def linear_scales(levels: int, smallest: float, largest: float) -> tuple[float, ...]:
    """Sides of the default boxes as shares of the image, evenly spaced from level to level, and 1 behind the last."""
    step = (largest - smallest) / max(levels - 1, 1)
    return (*(smallest + step * level for level in range(levels)), 1.0)


class DefaultBoxes(nn.Module):
    """Boxes of given scales and ratios at every place of every level; they scale with the image.

    ratios: for each level the ratios r of sides besides 1; each gives a box of ratio r and one of 1 / r. scales: one a
    level, and one more. strides: pixels from place to place; None: the image divided by the grid. Sides are at most
    the image's. Order as torchvision: level, row, column, box. No parameters.
    """

    def __init__(
        self,
        ratios: Sequence[Sequence[float]],
        scales: Sequence[float],
        strides: Sequence[float] | None = None,
    ):
        super().__init__()
        if len(scales) != len(ratios) + 1 or (strides is not None and len(strides) != len(ratios)):
            raise ValueError(
                f"DefaultBoxes: {len(ratios)} levels of ratios and {len(scales)} scales; give one scale more, "
                "and as many strides as levels"
            )
        self.strides = None if strides is None else tuple(strides)
        self.counts = tuple(2 + 2 * len(level) for level in ratios)
        for number, level in enumerate(ratios):
            scale, between = scales[number], math.sqrt(scales[number] * scales[number + 1])
            sides = [(scale, scale), (between, between)]
            for ratio in level:
                root = math.sqrt(ratio)
                sides += [(scale * root, scale / root), (scale / root, scale * root)]
            self.register_buffer(f"sides{number}", torch.tensor(sides).clamp(0, 1), persistent=False)

    def forward(self, grids: Sequence[tuple[int, int]], image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Boxes (P, 4) xyxy in pixels and strides (P,) for grids (h, w) of all levels and the image's height, width."""
        if len(grids) != len(self.counts):
            raise ValueError(f"DefaultBoxes: {len(grids)} feature maps; it was built for {len(self.counts)}")
        boxes, strides = [], []
        for number, (height, width) in enumerate(grids):
            sides = getattr(self, f"sides{number}").float()
            across, down = width, height  # places in the whole image, as many as strides say where they are given
            if self.strides:
                across, down = image_size[1] / self.strides[number], image_size[0] / self.strides[number]
            x = (torch.arange(width, device=sides.device) + 0.5) / across
            y = (torch.arange(height, device=sides.device) + 0.5) / down
            centres = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], -1)
            centres = centres.unsqueeze(2)  # (h, w, 1, 2)
            shares = torch.cat([centres - 0.5 * sides, centres + 0.5 * sides], -1)  # (h, w, A, 4)
            x, y = shares[..., 0::2] * image_size[1], shares[..., 1::2] * image_size[0]
            boxes.append(torch.stack([x, y], -1).reshape(-1, 4))
            strides.append(torch.full((len(boxes[-1]),), image_size[1] / across, device=sides.device))
        return torch.cat(boxes), torch.cat(strides)
