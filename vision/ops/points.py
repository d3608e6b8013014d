"""Points of a feature pyramid and boxes written as distances from them to the four sides."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["decode_distances", "decode_distributions", "encode_distances", "grid_points"]


def grid_points(
    shapes: Sequence[tuple[int, int]], strides: Sequence[int], device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Centres (P, 2) x, y in input pixels of all cells of maps (height, width), row by row, and strides (P,), float32.

    The cell in row i and column j of a map with stride s is centred at ((j + 0.5) s, (i + 0.5) s).
    """
    if len(shapes) != len(strides):
        raise ValueError(f"grid_points: {len(shapes)} map shapes but {len(strides)} strides; give one for each")
    points, steps = [], []
    for (height, width), stride in zip(shapes, strides):
        y = (torch.arange(height, dtype=torch.float32, device=device) + 0.5) * stride
        x = (torch.arange(width, dtype=torch.float32, device=device) + 0.5) * stride
        grid = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1)
        points.append(grid.reshape(-1, 2))
        steps.append(torch.full((height * width,), float(stride), device=device))
    return torch.cat(points), torch.cat(steps)


def decode_distances(points: Tensor, distances: Tensor) -> Tensor:
    """Boxes whose four sides lie `distances` away from `points` (FCOS, arXiv:1904.01355, eq. 1).

    points (..., P, 2) x, y and distances (..., P, 4) left, top, right, bottom, in input pixels
    -> boxes (..., P, 4) xyxy. Differentiable; not clipped. ValueError when P disagrees.
    """
    if points.shape[-2] != distances.shape[-2]:
        raise ValueError(f"decode_distances: {points.shape[-2]} points but {distances.shape[-2]} distances")
    return torch.cat([points - distances[..., :2], points + distances[..., 2:]], dim=-1)


def encode_distances(points: Tensor, boxes: Tensor) -> Tensor:
    """Distances (..., P, 4) left, top, right, bottom from points (..., P, 2) to the sides of boxes (..., P, 4).

    Negative where a point lies outside its box. The inverse of `decode_distances`.
    """
    return torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], dim=-1)


def decode_distributions(points: Tensor, strides: Tensor, logits: Tensor) -> Tensor:
    """Boxes (..., P, 4) from distributions over distances (generalised focal loss, arXiv:2006.04388, eq. 5).

    points (..., P, 2) in pixels; strides (..., P); logits (..., P, 4 * bins), side by side left, top, right, bottom:
    each distance is the expected bin 0..bins-1 times the stride. Float32, differentiable, not clipped.
    """
    logits = logits.float().unflatten(-1, (4, -1))  # (..., P, 4, bins)
    bins = torch.arange(logits.shape[-1], dtype=torch.float32, device=logits.device)
    distances = logits.softmax(-1) @ bins  # (..., P, 4)
    return decode_distances(points, distances * strides.unsqueeze(-1))
