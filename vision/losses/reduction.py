"""How the losses turn one value an element into what they return."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["REDUCTIONS", "check_reduction", "mean_over_present", "reduce", "to_float"]

REDUCTIONS = ("none", "sum", "mean")


def to_float(values: Tensor) -> Tensor:
    """`values` in float32, or float64 where they are that already: what every loss calculates in."""
    return values if values.dtype == torch.float64 else values.float()


def check_reduction(name: str, reduction: str) -> None:
    """ValueError, naming the loss `name`, when `reduction` is not one of `REDUCTIONS`."""
    if reduction not in REDUCTIONS:
        raise ValueError(f"{name}: reduction {reduction!r}; expected one of {', '.join(REDUCTIONS)}")


def reduce(
    values: Tensor, reduction: str, *, count: Tensor | float | None = None, normaliser: Tensor | float | None = None
) -> Tensor:
    """`values` as they are ("none"), their sum, or their sum divided by `count` ("mean"; default: how many there are).

    A `normaliser` replaces the count, whatever the reduction except "none": the sum is divided by it (a detector's
    number of positives averaged over ranks). The mean of nothing is 0, with a gradient.
    """
    if reduction == "none":
        return values
    total = values.sum()
    if normaliser is not None:
        return total / normaliser
    if reduction == "sum":
        return total
    if count is None:
        count = max(values.numel(), 1)
    if isinstance(count, Tensor):
        count = torch.where(count > 0, count, 1)
    return total / count


def mean_over_present(loss: Tensor, present: Tensor, class_weight: Tensor | None, reduction: str) -> Tensor:
    """`loss` (..., C) of the classes `present` (..., C) bool: their mean weighted by `class_weight` (C,), or "sum" or
    "none"."""
    share = present.to(loss.dtype)
    if class_weight is not None:
        share = share * class_weight.to(loss)
    loss = loss * share
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    total = share.sum()
    return loss.sum() / torch.where(total > 0, total, 1)
