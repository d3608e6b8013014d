"""Losses on class scores: cross-entropy and the focal family.

All take logits in any floating dtype and calculate in float32 (float64 stays). Where elements are dense detections the
default reduction is "sum" and `normaliser` is what the sum is divided by.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vision.losses.reduction import check_reduction, reduce, to_float

__all__ = [
    "binary_cross_entropy",
    "cross_entropy",
    "heatmap_focal_loss",
    "quality_focal_loss",
    "sigmoid_focal_loss",
    "softmax_focal_loss",
    "varifocal_loss",
]


def _check_labels(name: str, logits: Tensor, labels: Tensor) -> None:
    if logits.ndim < 2 or labels.shape != logits.shape[:1] + logits.shape[2:]:
        raise ValueError(
            f"{name}: logits {tuple(logits.shape)} and labels {tuple(labels.shape)}; "
            "expected logits (B, C, ...) and labels (B, ...)"
        )


def _check_same(name: str, logits: Tensor, targets: Tensor) -> None:
    if logits.shape != targets.shape:
        raise ValueError(f"{name}: logits {tuple(logits.shape)} and targets {tuple(targets.shape)}; shapes must agree")


def _power(base: Tensor, exponent: float) -> Tensor:
    """base ** exponent for base >= 0; its gradient stays finite at 0 for exponents below 1 too."""
    if 0 < exponent < 1:
        base = base.clamp(min=torch.finfo(base.dtype).eps)
    return base**exponent


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    weight: Tensor | None = None,
    ignore: int = 255,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    pixel_weight: Tensor | None = None,
) -> Tensor:
    """Softmax cross-entropy of logits (B, C, ...) with labels (B, ...) in 0..C-1 or `ignore`.

    `weight` (C,) multiplies each class, `pixel_weight` (B, ...) each element. The mean divides by the summed weight of
    the elements that count, as torch does, and is 0 where all are ignored. `label_smoothing` e trains towards 1 - e on
    the true class and e spread evenly over all (arXiv:1512.00567, section 7).
    """
    check_reduction("cross_entropy", reduction)
    _check_labels("cross_entropy", logits, labels)
    labels, weight = labels.long(), None if weight is None else weight.to(logits.device, to_float(logits).dtype)
    values = F.cross_entropy(
        to_float(logits), labels, weight, ignore_index=ignore, label_smoothing=label_smoothing, reduction="none"
    )
    if pixel_weight is not None:
        values = values * pixel_weight
    return reduce(values, reduction, count=_label_weight(labels, weight, ignore, pixel_weight))


def _label_weight(labels: Tensor, weight: Tensor | None, ignore: int, pixel_weight: Tensor | None) -> Tensor:
    """The summed weight of the elements whose label is not `ignore`."""
    keep = labels != ignore
    if weight is not None:
        keep = weight[torch.where(keep, labels, 0)] * keep
    if pixel_weight is not None:
        keep = keep * pixel_weight
    return keep.sum()


def binary_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    *,
    weight: Tensor | None = None,
    reduction: str = "mean",
    normaliser: Tensor | float | None = None,
    positive_weight: Tensor | float | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Sigmoid cross-entropy of logits with targets in [0, 1] of the same shape, one independent question an element.

    `weight` broadcasts against the elements; `positive_weight` (C,) or a number multiplies the positive term, classes
    on the last dimension. The mean divides by the number of elements. `label_smoothing` e moves targets to
    t (1 - e) + e / 2.
    """
    check_reduction("binary_cross_entropy", reduction)
    _check_same("binary_cross_entropy", logits, targets)
    logits = to_float(logits)
    targets = targets.to(logits.dtype)
    if label_smoothing:
        targets = targets * (1 - label_smoothing) + label_smoothing / 2
    if positive_weight is not None:
        positive_weight = torch.as_tensor(positive_weight, dtype=logits.dtype, device=logits.device)
    values = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=positive_weight, reduction="none")
    return reduce(values if weight is None else values * weight, reduction, normaliser=normaliser)


def sigmoid_focal_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    alpha: float | None = 0.25,
    gamma: float = 2.0,
    weight: Tensor | None = None,
    reduction: str = "sum",
    normaliser: Tensor | float | None = None,
) -> Tensor:
    """alpha_t (1 - p_t)^gamma times the sigmoid cross-entropy, elementwise (arXiv:1708.02002, eq. 5).

    logits and targets in [0, 1] of one shape; `alpha` weighs positives, 1 - alpha negatives, None neither.
    """
    check_reduction("sigmoid_focal_loss", reduction)
    _check_same("sigmoid_focal_loss", logits, targets)
    logits = to_float(logits)
    targets = targets.to(logits.dtype)
    probability = logits.sigmoid()
    wrong = probability + targets - 2 * probability * targets  # 1 - p_t
    values = F.binary_cross_entropy_with_logits(logits, targets, reduction="none") * _power(wrong, gamma)
    if alpha is not None:
        values = values * (alpha * targets + (1 - alpha) * (1 - targets))
    return reduce(values if weight is None else values * weight, reduction, normaliser=normaliser)


def softmax_focal_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    weight: Tensor | None = None,
    gamma: float = 2.0,
    ignore: int = 255,
    reduction: str = "mean",
    pixel_weight: Tensor | None = None,
) -> Tensor:
    """(1 - p_t)^gamma times the softmax cross-entropy: logits (B, C, ...), labels (B, ...) (arXiv:1708.02002).

    `weight` (C,) is the paper's alpha for each class. The mean divides as `cross_entropy` does, so gamma = 0 is it.
    """
    check_reduction("softmax_focal_loss", reduction)
    _check_labels("softmax_focal_loss", logits, labels)
    logits, labels = to_float(logits), labels.long()
    values = F.cross_entropy(logits, labels, ignore_index=ignore, reduction="none")
    values = values * _power(-torch.expm1(-values), gamma)
    if weight is not None:
        weight = weight.to(values)
        values = values * weight[torch.where(labels == ignore, 0, labels)]
    if pixel_weight is not None:
        values = values * pixel_weight
    return reduce(values, reduction, count=_label_weight(labels, weight, ignore, pixel_weight))


def quality_focal_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    beta: float = 2.0,
    weight: Tensor | None = None,
    reduction: str = "sum",
    normaliser: Tensor | float | None = None,
) -> Tensor:
    """|y - p|^beta times the cross-entropy with a soft quality y (IoU of the box, 0 elsewhere) (GFL, arXiv:2006.04388).

    logits and targets in [0, 1] of one shape.
    """
    check_reduction("quality_focal_loss", reduction)
    _check_same("quality_focal_loss", logits, targets)
    logits = to_float(logits)
    targets = targets.to(logits.dtype)
    distance = _power((targets - logits.sigmoid()).abs(), beta)
    values = F.binary_cross_entropy_with_logits(logits, targets, reduction="none") * distance
    return reduce(values if weight is None else values * weight, reduction, normaliser=normaliser)


def varifocal_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    alpha: float = 0.75,
    gamma: float = 2.0,
    weight: Tensor | None = None,
    reduction: str = "sum",
    normaliser: Tensor | float | None = None,
) -> Tensor:
    """Cross-entropy weighted by q on positives and by alpha p^gamma on negatives (VFNet, arXiv:2008.13367, eq. 2).

    logits and targets q of one shape: q > 0 is a positive's IoU with its object, 0 a negative.
    """
    check_reduction("varifocal_loss", reduction)
    _check_same("varifocal_loss", logits, targets)
    logits = to_float(logits)
    targets = targets.to(logits.dtype)
    importance = torch.where(targets > 0, targets, alpha * _power(logits.sigmoid(), gamma))
    values = F.binary_cross_entropy_with_logits(logits, targets, reduction="none") * importance
    return reduce(values if weight is None else values * weight, reduction, normaliser=normaliser)


def heatmap_focal_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    alpha: float = 2.0,
    beta: float = 4.0,
    weight: Tensor | None = None,
    reduction: str = "sum",
    normaliser: Tensor | float | None = None,
) -> Tensor:
    """The penalty-reduced focal loss of keypoint heatmaps (CornerNet, arXiv:1808.01244, eq. 1; CenterNet).

    logits and targets of one shape. A target of exactly 1 is a centre; below it, (1 - target)^beta eases the penalty
    around one. The paper's normaliser is the number of centres.
    """
    check_reduction("heatmap_focal_loss", reduction)
    _check_same("heatmap_focal_loss", logits, targets)
    logits = to_float(logits)
    targets = targets.to(logits.dtype)
    at_centre = F.softplus(-logits) * _power((-logits).sigmoid(), alpha)
    elsewhere = F.softplus(logits) * _power(logits.sigmoid(), alpha) * (1 - targets) ** beta
    values = torch.where(targets >= 1, at_centre, elsewhere)
    return reduce(values if weight is None else values * weight, reduction, normaliser=normaliser)
