"""How often each whole number occurs, counted where the numbers are."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["count_values"]


def count_values(values: Tensor, bins: int) -> Tensor:
    """Counts of 0, 1, ... bins - 1 among `values`: int64 (bins,).

    values: integers of any shape and type, all of them in that range (not checked). Nothing waits for the device:
    `torch.bincount` reads smallest and largest value back from a GPU, so there it is a histogram of fixed range.
    """
    if values.device.type == "cpu":
        return torch.bincount(values.flatten(), minlength=bins)
    return torch.histc(values.flatten().int(), bins, 0, bins).long()
