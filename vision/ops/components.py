"""Connected components of masks, on the device where the masks are."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["connected_components"]


def connected_components(mask: Tensor, *, diagonal: bool = False) -> Tensor:
    """Labels (B, H, W) int64 of the connected regions of `mask` (B, H, W) bool: 1, 2, ... in each image, 0 outside.

    Pixels are neighbours along the axes, with `diagonal` across corners too. Numbers follow the first pixel of each
    region in reading order. Every pixel takes the smallest number around it and then that number's own number
    (pointer jumping), which needs about log(length) rounds; each round asks the device whether anything changed.
    """
    if mask.ndim != 3:
        raise ValueError(f"connected_components: mask {tuple(mask.shape)}; expected (B, H, W)")
    batch, height, width = mask.shape
    mask = mask.bool()
    outside = batch * height * width
    own = torch.arange(outside, device=mask.device).view(batch, height, width)
    labels = torch.where(mask, own, outside)
    while labels.numel():
        lowest = torch.where(mask, _lowest_neighbour(labels, outside, diagonal), outside)
        # what a region's representative has found holds for all that point to it
        table = torch.cat([labels.flatten(), labels.new_tensor([outside])])
        table.scatter_reduce_(0, labels.flatten(), lowest.flatten(), "amin")
        table = table[table]
        lowest = table[table[lowest]]
        if torch.equal(lowest, labels):
            break
        labels = lowest
    roots = (labels == own) & mask
    rank = roots.flatten(1).cumsum(1)  # (B, H * W): how many regions began up to here
    rank = torch.cat([rank.flatten(), rank.new_zeros(1)])
    return rank[labels]


def _lowest_neighbour(labels: Tensor, outside: int, diagonal: bool) -> Tensor:
    padded = F.pad(labels, (1, 1, 1, 1), value=outside)
    rows = torch.minimum(torch.minimum(padded[:, :-2], padded[:, 2:]), padded[:, 1:-1])  # (B, H, W + 2)
    if diagonal:
        return torch.minimum(torch.minimum(rows[..., :-2], rows[..., 2:]), rows[..., 1:-1])
    columns = torch.minimum(padded[:, 1:-1, :-2], padded[:, 1:-1, 2:])
    return torch.minimum(rows[..., 1:-1], columns)
