"""The sums over pixels that every overlap loss is made of, without a one-hot copy of the labels.

Dice, Jaccard and Tversky know of an image only, for each class, the predicted mass, the true mass and their overlap.
`region_sums` gives these three from logits. It keeps one tensor of the logits' size for the backward pass (the
probabilities) and makes one more there (the gradient); plain autograd over a one-hot encoding keeps four to six.

What the labels' shape says of the task:
    logits (B, C, ...), C > 1, labels (B, ...)      multi-class: softmax, labels 0..C-1
    logits (B, 1, ...),        labels (B, ...)      binary: sigmoid, labels 0 and 1
    logits (B, C, ...),        labels (B, C, ...)   multi-label: a sigmoid for each class, labels 0 and 1
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vision.losses.reduction import to_float

__all__ = ["RegionSums", "check_labels", "is_multi_class", "region_sums", "sum_by_label"]


class RegionSums(NamedTuple):
    """For each image and class, all (B, C): overlap = sum p t, predicted = sum p (or p^2), true = sum t."""

    overlap: Tensor
    predicted: Tensor
    true: Tensor


def is_multi_class(name: str, logits: Tensor, labels: Tensor) -> bool:
    """True where labels are one class a pixel out of C > 1, False where each class has a mask; else ValueError."""
    per_pixel = logits.ndim >= 2 and labels.shape == logits.shape[:1] + logits.shape[2:]
    if not per_pixel and labels.shape != logits.shape:
        raise ValueError(
            f"{name}: logits {tuple(logits.shape)} and labels {tuple(labels.shape)}; expected logits (B, C, ...) with "
            "labels (B, ...), or labels of the logits' own shape for one mask a class"
        )
    return per_pixel and logits.shape[1] > 1


def check_labels(name: str, labels: Tensor, classes: int, ignore: int | None) -> None:
    """ValueError for labels beyond 0..classes-1 that are not `ignore`; on a CPU alone, as a GPU would have to be waited
    for, and not where the loss is compiled."""
    if labels.device.type != "cpu" or torch.compiler.is_compiling():
        return
    beyond = (labels < 0) | (labels >= classes)
    beyond = beyond if ignore is None else beyond & (labels != ignore)
    if beyond.any():
        raise ValueError(
            f"{name}: label {labels[beyond][0].item()}; expected 0 to {classes - 1}, or {ignore} to ignore"
        )


def region_sums(
    name: str,
    logits: Tensor,
    labels: Tensor,
    *,
    ignore: int | None = 255,
    squared: bool = False,
    pixel_weight: Tensor | None = None,
) -> RegionSums:
    """RegionSums of the probabilities of `logits` against `labels` (shapes above); `squared` sums p^2 in place of p.

    Pixels labelled `ignore` count nowhere; `pixel_weight` (B, ...) multiplies each pixel's share. Differentiable once,
    in the logits. Errors name the loss `name`.
    """
    multi_class = is_multi_class(name, logits, labels)
    if logits.ndim == 2:  # one pixel an image
        logits, labels = logits[..., None], labels[..., None]
        pixel_weight = pixel_weight if pixel_weight is None else pixel_weight[..., None]
    dtype = to_float(logits).dtype
    labels = labels.long() if multi_class else labels.reshape(logits.shape)
    keep = labels != ignore if ignore is not None else torch.ones_like(labels, dtype=torch.bool)
    weight = keep.to(dtype)
    if pixel_weight is not None:
        weight = weight * (pixel_weight.to(dtype) if multi_class else pixel_weight.to(dtype).unsqueeze(1))
    function = _SoftmaxSums if multi_class else _SigmoidSums
    labels = torch.where(keep, labels, 0)
    overlap, predicted = function.apply(logits, labels, weight, squared)
    if multi_class:
        true = sum_by_label(weight, labels, logits.shape[1])
    else:
        true = (labels * weight).flatten(2).sum(2)
    return RegionSums(overlap, predicted, true)


def sum_by_label(values: Tensor, labels: Tensor, classes: int) -> Tensor:
    """The sum of `values` (B, ...) over the pixels of each label 0..classes-1 -> (B, classes).

    One row at a time first: adding millions of pixels one after the other would lose the small ones in float32.
    """
    values = values.reshape(*values.shape[:2], math.prod(values.shape[2:]))  # (B, rows, the rest of an image)
    rows = values.new_zeros(*values.shape[:2], classes)
    return rows.scatter_add(2, labels.reshape(values.shape), values).sum(1)


def _spread(values: Tensor, like: Tensor) -> Tensor:
    """values (B, C) shaped to broadcast against `like` (B, C, ...)."""
    return values.reshape(*values.shape, *[1] * (like.ndim - 2))


class _SoftmaxSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, weight: Tensor, squared: bool) -> tuple[Tensor, Tensor]:
        probability = torch.softmax(logits, 1, dtype=weight.dtype)
        ctx.save_for_backward(probability, labels, weight)
        ctx.squared, ctx.dtype = squared, logits.dtype
        of_label = probability.gather(1, labels[:, None])[:, 0]  # (B, ...)
        overlap = sum_by_label(of_label * weight, labels, logits.shape[1])
        mass = probability * weight[:, None]
        if squared:
            mass *= probability
        return overlap, mass.flatten(2).sum(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_overlap: Tensor, of_predicted: Tensor) -> tuple[Tensor | None, ...]:
        # with g = dL/dp, dL/dlogits = p (g - sum_c p g); g is `of_predicted` (2 p of it, squared) plus, on the
        # label's own channel, `of_overlap`. Only `gradient` has the size of the logits.
        probability, labels, weight = ctx.saved_tensors
        gradient = probability * _spread(of_predicted, probability)
        if ctx.squared:
            gradient *= 2 * probability
        index = labels[:, None]
        flat = labels.flatten(1)
        on_label = of_overlap.gather(1, flat).reshape(index.shape) * probability.gather(1, index)
        gradient.scatter_add_(1, index, on_label)
        gradient.addcmul_(probability, gradient.sum(1, keepdim=True), value=-1)
        gradient *= weight[:, None]
        return gradient.to(ctx.dtype), None, None, None


class _SigmoidSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, weight: Tensor, squared: bool) -> tuple[Tensor, Tensor]:
        probability = torch.sigmoid(logits.to(weight.dtype))
        ctx.save_for_backward(probability, labels, weight)
        ctx.squared, ctx.dtype = squared, logits.dtype
        mass = probability * weight
        overlap = (mass * labels).flatten(2).sum(2)
        if squared:
            mass *= probability
        return overlap, mass.flatten(2).sum(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_overlap: Tensor, of_predicted: Tensor) -> tuple[Tensor | None, ...]:
        probability, labels, weight = ctx.saved_tensors
        gradient = labels * _spread(of_overlap, probability)
        if ctx.squared:
            gradient = gradient + 2 * probability * _spread(of_predicted, probability)
        else:
            gradient = gradient + _spread(of_predicted, probability)
        gradient = gradient * (probability * (1 - probability) * weight)
        return gradient.to(ctx.dtype), None, None, None
