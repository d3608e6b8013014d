"""Heat maps of object centres: drawing them, and reading the peaks (CenterNet, arXiv:1904.07850)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Peaks", "draw_centres", "find_peaks", "gaussian_radius"]


class Peaks(NamedTuple):
    """The K highest peaks of each image: scores (B, K) falling, cells (B, K) = row * width + column, labels (B, K)."""

    scores: Tensor
    cells: Tensor
    labels: Tensor


def gaussian_radius(width: Tensor, height: Tensor, overlap: float = 0.7) -> Tensor:
    """How far two opposite corners of a box may move so that its IoU with the original stays at least `overlap`.

    CornerNet (arXiv:1808.01244, section 3.1): the least of three cases, both corners moved the same way, both
    outwards, both inwards. Any shape; the roots of the quadratics as they are, without that paper's code's error.
    """
    total, area = width + height, width * height
    # shifted: (w - r)(h - r) / (2 w h - (w - r)(h - r)) = o  <=>  r^2 - (w + h) r + w h (1 - o) / (1 + o) = 0
    shifted = (total - (total.square() - 4 * area * (1 - overlap) / (1 + overlap)).clamp(min=0).sqrt()) / 2
    # inside: (w - 2r)(h - 2r) / (w h) = o; outside: w h / ((w + 2r)(h + 2r)) = o
    inside = (total - (total.square() - 4 * area * (1 - overlap)).clamp(min=0).sqrt()) / 4
    outside = (-total + (total.square() + 4 * area * (1 / overlap - 1)).sqrt()) / 4
    return torch.minimum(torch.minimum(shifted, inside), outside)


def draw_centres(
    boxes: Tensor, labels: Tensor, valid: Tensor, classes: int, size: tuple[int, int], overlap: float = 0.7
) -> Tensor:
    """Heat maps (B, classes, h, w) in [0, 1] with a Gaussian for each object, 1 at the cell of its centre.

    boxes (B, G, 4) in cells of the map, labels (B, G), valid (B, G) bool. The standard deviation is a third of
    `gaussian_radius`, at least 1/6; where Gaussians of a class overlap the greater value stands.
    """
    height, width = size
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)
    radius = gaussian_radius(sides[..., 0], sides[..., 1], overlap).floor()
    deviation = (2 * radius + 1) / 6  # (B, G)
    centre = ((boxes[..., :2] + boxes[..., 2:]) / 2).floor()
    x = torch.arange(width, dtype=boxes.dtype, device=boxes.device)
    y = torch.arange(height, dtype=boxes.dtype, device=boxes.device)
    scale = (2 * deviation.square()).unsqueeze(-1)
    across = (-(x - centre[..., :1].clamp(0, width - 1)).square() / scale).exp()  # (B, G, w)
    down = (-(y - centre[..., 1:].clamp(0, height - 1)).square() / scale).exp()  # (B, G, h)
    bumps = down.unsqueeze(-1) * across.unsqueeze(-2) * valid[..., None, None]  # (B, G, h, w)
    maps = boxes.new_zeros(len(boxes), classes, height * width)
    row = labels.clamp(min=0).unsqueeze(-1).expand(-1, -1, height * width)
    return maps.scatter_reduce(1, row, bumps.flatten(2), "amax").unflatten(-1, size)


def find_peaks(heatmap: Tensor, count: int) -> Peaks:
    """The `count` highest cells of scores (B, C, h, w) that no neighbour among the eight exceeds; the rest score 0."""
    classes, height, width = heatmap.shape[1:]
    peaks = heatmap * (heatmap == F.max_pool2d(heatmap, 3, stride=1, padding=1))
    best = peaks.flatten(2).amax(1)  # (B, h * w): a cell can hold one of the highest only by its best classes
    kept = min(count, height * width)
    cell = best.topk(kept, dim=1).indices
    scores = peaks.flatten(2).gather(2, cell.unsqueeze(1).expand(-1, classes, -1)).flatten(1)  # (B, C * kept)
    score, flat = scores.topk(min(count, kept * classes), dim=1)
    return Peaks(score, cell.gather(1, flat % kept), flat // kept)
