"""Losses whose slope in the probabilities is known in closed form.

Lovasz, boundary and Hausdorff losses weigh each pixel by something that is itself held constant (a rank, a distance).
Their value and slope are calculated without a graph; autograd then needs only the step from logits to probabilities.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vision.losses.reduction import to_float

__all__ = ["of_known_slope", "probabilities", "truth_of"]


def probabilities(logits: Tensor, multi_class: bool) -> Tensor:
    """Softmax over the classes or a sigmoid each, (B, C, ...), without a graph."""
    logits = to_float(logits.detach())
    return logits.softmax(1) if multi_class else logits.sigmoid()


def truth_of(labels: Tensor, channel: int, multi_class: bool) -> Tensor:
    """Where class `channel` is true (B, ...) bool; labels are (B, ...) of classes, or (B, C, ...) of 0 and 1."""
    return labels == channel if multi_class else labels[:, channel] == 1


def of_known_slope(logits: Tensor, probability: Tensor, slope: Tensor, value: Tensor, multi_class: bool) -> Tensor:
    """`value` (C,), one loss a class, with a graph: d value[c] / d probability[:, c] is `slope` (B, C, ...).

    `probability` are those of `logits`, from `probabilities`. Differentiable once.
    """
    return _KnownSlope.apply(logits, probability, slope, value, multi_class)


class _KnownSlope(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, probability: Tensor, slope: Tensor, value: Tensor, multi_class: bool
    ) -> Tensor:
        ctx.save_for_backward(probability, slope)
        ctx.multi_class, ctx.dtype = multi_class, logits.dtype
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_value: Tensor) -> tuple[Tensor | None, ...]:
        probability, slope = ctx.saved_tensors
        gradient = slope * probability
        gradient *= of_value.reshape(1, -1, *[1] * (slope.ndim - 2))
        if ctx.multi_class:
            gradient.addcmul_(probability, gradient.sum(1, keepdim=True), value=-1)
        else:
            gradient.addcmul_(gradient, probability, value=-1)
        return gradient.to(ctx.dtype), None, None, None, None
