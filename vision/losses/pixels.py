"""Cross-entropy and its relatives for whichever labels a segmentation has: one class a pixel, or a mask a class.

logits (B, C, ...); labels (B, ...), or (B, C, ...) for masks (see `region_sums`). `class_weight` (C,), `pixel_weight`
(B, ...); labels `ignore` count nowhere. All return the mean, a scalar, float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vision.losses.classification import binary_cross_entropy, cross_entropy, sigmoid_focal_loss, softmax_focal_loss
from vision.losses.mining import ohem_cross_entropy
from vision.losses.region_sums import is_multi_class

__all__ = ["pixel_cross_entropy", "pixel_focal", "pixel_ohem"]


def pixel_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    ignore: int = 255,
    class_weight: Tensor | None = None,
    pixel_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Mean cross-entropy: softmax over classes, or a sigmoid for each mask (class weights: of the masks)."""
    if is_multi_class("cross_entropy", logits, labels):
        return cross_entropy(
            logits, labels, weight=class_weight, ignore=ignore, label_smoothing=label_smoothing,
            pixel_weight=pixel_weight,
        )  # fmt: skip
    targets, weight = _answers(logits, labels, ignore, class_weight, pixel_weight)
    total = weight.sum()
    return binary_cross_entropy(
        logits, targets, weight=weight, label_smoothing=label_smoothing, normaliser=torch.where(total > 0, total, 1)
    )


def pixel_focal(
    logits: Tensor,
    labels: Tensor,
    *,
    ignore: int = 255,
    class_weight: Tensor | None = None,
    pixel_weight: Tensor | None = None,
    gamma: float = 2.0,
    alpha: float | None = None,
) -> Tensor:
    """Mean focal loss: softmax over classes, or a sigmoid for each mask (`alpha` weighs its positives).

    ValueError when `alpha` is given and there are no masks: classes that exclude each other have class weights.
    """
    if is_multi_class("focal", logits, labels):
        if alpha is not None:
            raise ValueError(
                f"focal: alpha {alpha} for one class a pixel out of {logits.shape[1]}; alpha weighs the positives of "
                "masks, so leave it out and use class_weight"
            )
        return softmax_focal_loss(
            logits, labels, weight=class_weight, gamma=gamma, ignore=ignore, pixel_weight=pixel_weight
        )
    targets, weight = _answers(logits, labels, ignore, class_weight, pixel_weight)
    total = weight.sum()
    normaliser = torch.where(total > 0, total, 1)
    return sigmoid_focal_loss(logits, targets, alpha=alpha, gamma=gamma, weight=weight, normaliser=normaliser)


def pixel_ohem(
    logits: Tensor,
    labels: Tensor,
    *,
    ignore: int = 255,
    class_weight: Tensor | None = None,
    pixel_weight: Tensor | None = None,
    threshold: float = 0.7,
    least: float = 0.0625,
) -> Tensor:
    """`ohem_cross_entropy`, for one class a pixel."""
    if not is_multi_class("ohem", logits, labels):
        raise ValueError("ohem: logits of masks; it needs one class a pixel out of two or more. Use focal instead")
    return ohem_cross_entropy(
        logits, labels, threshold=threshold, least=least, weight=class_weight, ignore=ignore, pixel_weight=pixel_weight
    )


def _answers(
    logits: Tensor, labels: Tensor, ignore: int, class_weight: Tensor | None, pixel_weight: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Targets and weights of the logits' shape for masks."""
    labels = labels.reshape(logits.shape)
    keep = labels != ignore
    weight = keep.float()
    if class_weight is not None:
        weight = weight * class_weight.to(weight).reshape(1, -1, *[1] * (logits.ndim - 2))
    if pixel_weight is not None:
        weight = weight * pixel_weight.unsqueeze(1)
    return torch.where(keep, labels, 0), weight
