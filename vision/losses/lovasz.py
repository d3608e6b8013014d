"""The Lovasz extension of the Jaccard loss: a convex surrogate of IoU itself (Berman et al., arXiv:1705.08790).

Shapes, `ignore`, absent classes and `class_weight` are as in `region.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vision.losses.known_slope import of_known_slope, probabilities, truth_of
from vision.losses.reduction import check_reduction, mean_over_present, to_float
from vision.losses.region_sums import check_labels, is_multi_class

__all__ = ["lovasz_hinge_loss", "lovasz_loss", "lovasz_softmax_loss"]


def lovasz_loss(
    logits: Tensor, labels: Tensor, *, ignore: int | None = 255, class_weight: Tensor | None = None
) -> Tensor:
    """`lovasz_softmax_loss` for one class a pixel, `lovasz_hinge_loss` for masks."""
    multi_class = is_multi_class("lovasz_loss", logits, labels)
    loss = lovasz_softmax_loss if multi_class else lovasz_hinge_loss
    return loss(logits, labels, ignore=ignore, class_weight=class_weight)


def lovasz_softmax_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    ignore: int | None = 255,
    class_weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Lovasz extension of 1 - IoU at the errors |t - p|, over the pixels of the batch, averaged over present classes.

    Logits (B, C, ...) with labels (B, ...): softmax; one mask a class: a sigmoid each.
    """
    check_reduction("lovasz_softmax_loss", reduction)
    multi_class = is_multi_class("lovasz_softmax_loss", logits, labels)
    check_labels("lovasz_softmax_loss", labels, logits.shape[1] if multi_class else 2, ignore)
    labels = labels if multi_class else labels.reshape(logits.shape)
    with torch.no_grad():
        probability = probabilities(logits, multi_class)
        slope = torch.empty_like(probability)
        values, present = [], []
        for channel in range(logits.shape[1]):  # one sort at a time: sorting all classes at once needs C times as much
            truth = truth_of(labels, channel, multi_class)
            keep = _kept(labels, channel, multi_class, ignore)
            errors = torch.where(truth, 1 - probability[:, channel], probability[:, channel])
            weights = _lovasz_weights(errors, truth & keep, keep)
            values.append((errors * weights).sum())
            slope[:, channel] = torch.where(truth, -weights, weights)
            present.append((truth & keep).any())
        present = torch.stack(present)
        slope *= present.reshape(1, -1, *[1] * (slope.ndim - 2))
        value = torch.stack(values) * present
    loss = of_known_slope(logits, probability, slope, value, multi_class)
    return mean_over_present(loss, present, class_weight, reduction)


def lovasz_hinge_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    ignore: int | None = 255,
    class_weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Lovasz extension of 1 - IoU at the hinge errors max(0, 1 -+ logit) of binary or multi-label masks.

    Logits (B, 1, ...) with labels (B, ...), or both (B, C, ...); labels 0, 1 and `ignore`.
    """
    check_reduction("lovasz_hinge_loss", reduction)
    if is_multi_class("lovasz_hinge_loss", logits, labels):
        raise ValueError(
            f"lovasz_hinge_loss: {logits.shape[1]} classes with one label a pixel; expected masks (use lovasz_softmax)"
        )
    check_labels("lovasz_hinge_loss", labels, 2, ignore)
    labels, logits = labels.reshape(logits.shape), to_float(logits)
    losses, present = [], []
    for channel in range(logits.shape[1]):
        truth = truth_of(labels, channel, False)
        keep = _kept(labels, channel, False, ignore)
        sign = torch.where(truth, 1.0, -1.0)
        errors = 1 - logits[:, channel] * sign
        weights = _lovasz_weights(errors.detach(), truth & keep, keep)
        losses.append((errors.relu() * weights).sum())
        present.append((truth & keep).any())
    return mean_over_present(torch.stack(losses), torch.stack(present), class_weight, reduction)


def _kept(labels: Tensor, channel: int, multi_class: bool, ignore: int | None) -> Tensor:
    of_channel = labels if multi_class else labels[:, channel]
    return torch.ones_like(of_channel, dtype=torch.bool) if ignore is None else of_channel != ignore


def _lovasz_weights(errors: Tensor, truth: Tensor, keep: Tensor) -> Tensor:
    """By how much each pixel's error counts: the rise of 1 - IoU when it joins the worse pixels as wrong (Algorithm 1).

    The rises are written out rather than taken as differences of neighbouring values of 1 - IoU: those lose all
    digits once an image has more than about a million pixels. Ignored pixels come last and weigh 0.
    """
    order = torch.where(keep, errors, -torch.inf).flatten().argsort(descending=True)
    hit = truth.flatten()[order].to(errors.dtype)
    total = hit.sum()
    left = total - hit.cumsum(0)  # true pixels that are still right
    union = (total + (1 - hit).cumsum(0)).clamp(min=1)
    # a true pixel takes 1 from the intersection, a false one adds 1 to the union
    rise = torch.where(hit > 0, 1 / union, left / (union * (union - 1).clamp(min=1)))
    weights = torch.empty_like(rise)
    weights[order] = rise
    return weights.reshape(errors.shape) * keep
