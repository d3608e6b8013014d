"""Anchor boxes on the grids of feature maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["AnchorGenerator"]


def _cell_anchors(sizes: Sequence[float], ratios: Sequence[float], rounded: bool) -> Tensor:
    """Anchors (A, 4) around the origin, ratio by ratio, each in all sizes; ratio = height / width."""
    roots = torch.tensor(ratios, dtype=torch.float32).sqrt()
    sides = torch.tensor(sizes, dtype=torch.float32)
    widths, heights = (1 / roots)[:, None] * sides, roots[:, None] * sides
    cells = torch.stack([-widths, -heights, widths, heights], -1).reshape(-1, 4) / 2
    return cells.round() if rounded else cells


class AnchorGenerator(nn.Module):
    """Anchors of every level's sizes and ratios (height / width) at every place of its grid, as torchvision's.

    `sizes` and `ratios`: for each level a tuple of pixels, and of ratios (or one tuple for all levels). `strides`:
    pixels from one place to the next, a number a level; None: image size // grid size, by axis, as torchvision does,
    which for a grid that does not divide the image (the pooled level of an FPN) is not the level's true stride.
    `rounded` corners are torchvision's too. Holds no parameters and adds nothing to a state dict.
    """

    def __init__(
        self,
        sizes: Sequence[Sequence[float]],
        ratios: Sequence[Sequence[float]] | Sequence[float] = (0.5, 1.0, 2.0),
        strides: Sequence[float] | None = None,
        rounded: bool = True,
    ):
        super().__init__()
        ratios = [ratios] * len(sizes) if isinstance(ratios[0], int | float) else ratios
        if len(ratios) != len(sizes) or (strides is not None and len(strides) != len(sizes)):
            raise ValueError(
                f"AnchorGenerator: {len(sizes)} levels of sizes, {len(ratios)} of ratios, "
                f"{None if strides is None else len(strides)} strides; give one of each a level"
            )
        self.strides = None if strides is None else tuple(strides)
        self.counts = tuple(len(s) * len(r) for s, r in zip(sizes, ratios))  # anchors a place, by level
        for level, (size, ratio) in enumerate(zip(sizes, ratios)):
            self.register_buffer(f"cells{level}", _cell_anchors(size, ratio, rounded), persistent=False)

    def forward(self, grids: Sequence[tuple[int, int]], image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Anchors (P, 4) xyxy and the stride (P,) of each, for grids (h, w) of all levels, finest first.

        Order: level, row, column, ratio, size. Anchors may reach over the image's border. The stride told is the
        horizontal one. ValueError when the number of levels disagrees.
        """
        if len(grids) != len(self.counts):
            raise ValueError(f"AnchorGenerator: {len(grids)} feature maps; it was built for {len(self.counts)}")
        anchors, strides = [], []
        for level, (height, width) in enumerate(grids):
            cells = getattr(self, f"cells{level}").float()
            if self.strides is None:
                step_y, step_x = image_size[0] // height, image_size[1] // width
            else:
                step_y = step_x = self.strides[level]
            x = torch.arange(width, device=cells.device, dtype=torch.float32) * step_x
            y = torch.arange(height, device=cells.device, dtype=torch.float32) * step_y
            y, x = torch.meshgrid(y, x, indexing="ij")
            shifts = torch.stack([x, y, x, y], -1)  # (h, w, 4)
            anchors.append((shifts[:, :, None] + cells).reshape(-1, 4))
            strides.append(torch.full((len(anchors[-1]),), float(step_x), device=cells.device))
        return torch.cat(anchors), torch.cat(strides)
