"""Overlap losses of segmentation: Dice, Jaccard, Tversky and what descends from them.

Shapes say the task (see `region_sums`): logits (B, C, ...) with labels (B, ...) are one class a pixel (softmax), with
C = 1 a binary mask (sigmoid), and with labels (B, C, ...) a mask for each class. 2-D, 3-D and any other number of
dimensions. Pixels labelled `ignore` count nowhere.

A class that no pixel of the labels has is left out of the mean: it has no score, and counting it as 0 or as 1 would
hide or invent errors. Where that leaves nothing the loss is 0, with a zero gradient.

Arguments that all share: `ignore`; `class_weight` (C,), by which the mean over classes is weighted (0 leaves a class
out); `pixel_weight` (B, ...); `per_image`: a score for each image and class rather than one a class over the batch;
`smooth`, added to numerator and denominator; `reduction`: "mean" or "sum" over the classes (and images), or "none":
(C,), or (B, C) when `per_image`, 0 where the class is absent.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vision.losses.reduction import check_reduction
from vision.losses.region_sums import RegionSums, region_sums

__all__ = [
    "dice_loss",
    "focal_tversky_loss",
    "generalised_dice_loss",
    "jaccard_loss",
    "log_cosh_dice_loss",
    "tversky_loss",
]


def _ratio(numerator: Tensor, denominator: Tensor, sums: RegionSums, smooth: float) -> Tensor:
    """(numerator + smooth) / (denominator + smooth), and 1 for absent classes; gradients stay finite."""
    present = sums.true > 0
    numerator = torch.where(present, numerator + smooth, 1)
    return numerator / torch.where(present, denominator + smooth, 1)


def _over_classes(loss: Tensor, sums: RegionSums, class_weight: Tensor | None, reduction: str) -> Tensor:
    """`loss` (C,) or (B, C), 0 for absent classes, reduced over those that are present."""
    share = (sums.true > 0).to(loss.dtype)
    if class_weight is not None:
        share = share * class_weight.to(loss)
    loss = loss * share
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    total = share.sum()
    return loss.sum() / torch.where(total > 0, total, 1)


def _sums(name: str, logits: Tensor, labels: Tensor, reduction: str, per_image: bool, **options) -> RegionSums:
    check_reduction(name, reduction)
    sums = region_sums(name, logits, labels, **options)
    return sums if per_image else RegionSums(*(part.sum(0) for part in sums))


def dice_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    ignore: int | None = 255,
    squared: bool = False,
    class_weight: Tensor | None = None,
    pixel_weight: Tensor | None = None,
    per_image: bool = False,
    smooth: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """1 - 2 sum(p t) / (sum p + sum t), averaged over the classes present.

    `squared` sums p^2 in the denominator (V-Net, arXiv:1606.04797). Shapes and arguments: see the module.
    """
    options = {"ignore": ignore, "pixel_weight": pixel_weight, "squared": squared}
    sums = _sums("dice_loss", logits, labels, reduction, per_image, **options)
    score = _ratio(2 * sums.overlap, sums.predicted + sums.true, sums, smooth)
    return _over_classes(1 - score, sums, class_weight, reduction)


def generalised_dice_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    ignore: int | None = 255,
    class_weight: Tensor | None = None,
    pixel_weight: Tensor | None = None,
    per_image: bool = False,
    smooth: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """1 - 2 sum_c w_c sum(p t) / sum_c w_c (sum p + sum t), w_c = 1 / (sum t)^2 (arXiv:1707.03237).

    One number an image (`per_image`) or batch rather than one a class: "none" gives (B,) or a scalar.
    """
    options = {"ignore": ignore, "pixel_weight": pixel_weight}
    sums = _sums("generalised_dice_loss", logits, labels, reduction, per_image, **options)
    present = sums.true > 0
    weight = torch.where(present, 1 / torch.where(present, sums.true, 1) ** 2, 0)
    if class_weight is not None:
        weight = weight * class_weight.to(weight)
    whole = RegionSums(*((weight * part).sum(-1) for part in sums))
    score = _ratio(2 * whole.overlap, whole.predicted + whole.true, whole, smooth)
    return _over_classes(1 - score, whole, None, reduction)


def log_cosh_dice_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    ignore: int | None = 255,
    squared: bool = False,
    class_weight: Tensor | None = None,
    pixel_weight: Tensor | None = None,
    smooth: float = 0.0,
) -> Tensor:
    """log(cosh(dice_loss)) of the mean over the classes present: smoother near its minimum (arXiv:2006.14822)."""
    options = {"squared": squared, "class_weight": class_weight, "pixel_weight": pixel_weight, "smooth": smooth}
    return dice_loss(logits, labels, ignore=ignore, **options).cosh().log()


def jaccard_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    ignore: int | None = 255,
    class_weight: Tensor | None = None,
    pixel_weight: Tensor | None = None,
    per_image: bool = False,
    smooth: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """1 - soft IoU: 1 - sum(p t) / (sum p + sum t - sum(p t)) (Rahman & Wang, ISVC 2016)."""
    options = {"ignore": ignore, "pixel_weight": pixel_weight}
    sums = _sums("jaccard_loss", logits, labels, reduction, per_image, **options)
    score = _ratio(sums.overlap, sums.predicted + sums.true - sums.overlap, sums, smooth)
    return _over_classes(1 - score, sums, class_weight, reduction)


def tversky_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    alpha: float = 0.3,
    beta: float = 0.7,
    ignore: int | None = 255,
    class_weight: Tensor | None = None,
    pixel_weight: Tensor | None = None,
    per_image: bool = False,
    smooth: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """1 - TP / (TP + alpha FP + beta FN) (arXiv:1706.05721). alpha = beta = 0.5 is Dice, 1 and 1 Jaccard."""
    options = {"ignore": ignore, "pixel_weight": pixel_weight}
    sums = _sums("tversky_loss", logits, labels, reduction, per_image, **options)
    return _over_classes(1 - _tversky(sums, alpha, beta, smooth), sums, class_weight, reduction)


def focal_tversky_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    alpha: float = 0.3,
    beta: float = 0.7,
    gamma: float = 4 / 3,
    ignore: int | None = 255,
    class_weight: Tensor | None = None,
    pixel_weight: Tensor | None = None,
    per_image: bool = False,
    smooth: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """(1 - Tversky)^(1 / gamma) of each class, averaged over those present (arXiv:1810.07842)."""
    options = {"ignore": ignore, "pixel_weight": pixel_weight}
    sums = _sums("focal_tversky_loss", logits, labels, reduction, per_image, **options)
    wrong = 1 - _tversky(sums, alpha, beta, smooth)
    # the slope of a root is infinite at 0: below 1e-6 the loss is flat
    return _over_classes(wrong.clamp(min=1e-6) ** (1 / gamma), sums, class_weight, reduction)


def _tversky(sums: RegionSums, alpha: float, beta: float, smooth: float) -> Tensor:
    extra, missed = sums.predicted - sums.overlap, sums.true - sums.overlap
    return _ratio(sums.overlap, sums.overlap + alpha * extra + beta * missed, sums, smooth)
