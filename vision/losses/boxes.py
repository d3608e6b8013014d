"""Losses on boxes and on their offsets."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from vision.losses.reduction import check_reduction, reduce, to_float
from vision.ops.boxes import iou_and_penalties

__all__ = ["balanced_l1_loss", "box_iou_loss", "distribution_focal_loss", "smooth_l1_loss"]


def box_iou_loss(
    pred: Tensor,
    target: Tensor,
    *,
    kind: str = "ciou",
    alpha: float = 1.0,
    weight: Tensor | None = None,
    reduction: str = "sum",
    normaliser: Tensor | float | None = None,
) -> Tensor:
    """1 - IoU of predicted and true boxes (..., 4) xyxy, pair by pair, or one of its relatives.

    `kind`: iou, giou (arXiv:1902.09630), diou, ciou (1911.08287), eiou (2101.08158), siou (2205.12740). `alpha` is the
    power of alpha-IoU (2110.13675, eq. 3; the paper uses 3): the overlap and each penalty are raised to it. `weight`
    broadcasts against the pairs (...).
    """
    check_reduction("box_iou_loss", reduction)
    if pred.shape != target.shape or pred.shape[-1] != 4:
        raise ValueError(
            f"box_iou_loss: predictions {tuple(pred.shape)} and targets {tuple(target.shape)}; "
            "expected the same shape (..., 4), pair by pair"
        )
    pred, target = to_float(pred), to_float(target)
    overlap, penalties = iou_and_penalties(pred, target, kind)
    if alpha == 1.0:
        values = 1 - (overlap - sum(penalties))
    else:  # the slope of a power below 1 is infinite at 0
        values = 1 - overlap.clamp(min=1e-7) ** alpha + sum(part.clamp(min=1e-7) ** alpha for part in penalties)
    return reduce(values if weight is None else values * weight, reduction, normaliser=normaliser)


def distribution_focal_loss(
    logits: Tensor, target: Tensor, *, reduction: str = "none", normaliser: Tensor | float | None = None
) -> Tensor:
    """Cross-entropy with the two bins around a real-valued target (GFL, arXiv:2006.04388, eq. 6).

    logits (..., bins) over the values 0..bins-1, target (...) in [0, bins - 1] (clamped to it) -> (...) by default.
    """
    check_reduction("distribution_focal_loss", reduction)
    if logits.shape[:-1] != target.shape:
        raise ValueError(
            f"distribution_focal_loss: logits {tuple(logits.shape)} and targets {tuple(target.shape)}; "
            "expected (..., bins) and (...)"
        )
    logits = to_float(logits)
    bins = logits.shape[-1]
    target = target.to(logits.dtype).clamp(0, bins - 1)
    lower = target.floor().clamp(max=bins - 2)
    share = target - lower  # of the upper bin, in [0, 1]
    index = lower.long()[..., None]
    log_probability = logits.log_softmax(-1).gather(-1, torch.cat([index, index + 1], -1))  # (..., 2)
    values = -(log_probability[..., 0] * (1 - share) + log_probability[..., 1] * share)
    return reduce(values, reduction, normaliser=normaliser)


def smooth_l1_loss(
    pred: Tensor,
    target: Tensor,
    *,
    beta: float = 1.0,
    weight: Tensor | None = None,
    reduction: str = "sum",
    normaliser: Tensor | float | None = None,
) -> Tensor:
    """0.5 d^2 / beta below `beta` and |d| - beta / 2 above it, d = pred - target (arXiv:1504.08083, eq. 3).

    beta = 0 is the absolute error.
    """
    check_reduction("smooth_l1_loss", reduction)
    values = F.smooth_l1_loss(to_float(pred), target.to(to_float(pred).dtype), beta=beta, reduction="none")
    return reduce(values if weight is None else values * weight, reduction, normaliser=normaliser)


def balanced_l1_loss(
    pred: Tensor,
    target: Tensor,
    *,
    alpha: float = 0.5,
    gamma: float = 1.5,
    beta: float = 1.0,
    weight: Tensor | None = None,
    reduction: str = "sum",
    normaliser: Tensor | float | None = None,
) -> Tensor:
    """Smooth L1 with a larger gradient, alpha ln(b d + 1), for accurate pairs (Libra R-CNN, arXiv:1904.02701, eq. 9).

    d = |pred - target|; b is such that the gradient reaches `gamma` at d = `beta` and stays there.
    """
    check_reduction("balanced_l1_loss", reduction)
    pred = to_float(pred)
    distance = (pred - target.to(pred.dtype)).abs()
    slope = math.expm1(gamma / alpha)
    scaled = slope * distance.clamp(max=beta) / beta
    near = alpha / slope * beta * ((scaled + 1) * torch.log1p(scaled) - scaled)
    values = torch.where(distance < beta, near, near + gamma * (distance - beta))
    return reduce(values if weight is None else values * weight, reduction, normaliser=normaliser)
