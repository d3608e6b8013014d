"""Which elements a loss looks at, and how much each class counts."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from vision.losses.reduction import to_float

__all__ = ["class_weights", "hard_negatives", "ohem_cross_entropy"]


def ohem_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    threshold: float = 0.7,
    least: float = 0.0625,
    weight: Tensor | None = None,
    ignore: int = 255,
    pixel_weight: Tensor | None = None,
) -> Tensor:
    """Mean cross-entropy of the pixels whose true class has a probability below `threshold` (online hard examples).

    logits (B, C, ...), labels (B, ...). At least the share `least` of all pixels is kept, the hardest ones
    (arXiv:1604.03540; the form for segmentation is that of arXiv:1605.06885). Class and pixel weights multiply the
    kept values after the choice; the mean divides by their sum.
    """
    if not 0 < threshold <= 1 or not 0 < least <= 1:
        raise ValueError(f"ohem_cross_entropy: threshold {threshold} and least {least}; expected shares above 0, to 1")
    logits, labels = to_float(logits), labels.long()
    values = F.cross_entropy(logits, labels, ignore_index=ignore, reduction="none")
    keep = labels != ignore
    count = max(math.ceil(least * values.numel()), 1)
    with torch.no_grad():
        hardness = torch.where(keep, values, -1).flatten()
        floor = hardness.topk(min(count, hardness.numel())).values[-1] if hardness.numel() else hardness.sum()
        chosen = (keep & (values >= floor.clamp(max=-math.log(threshold)))).to(values.dtype)
        if weight is not None:
            chosen = chosen * weight.to(values)[torch.where(keep, labels, 0)]
        if pixel_weight is not None:
            chosen = chosen * pixel_weight
        total = chosen.sum()
    return (values * chosen).sum() / torch.where(total > 0, total, 1)


def hard_negatives(
    losses: Tensor, positive: Tensor, *, ratio: float = 3.0, least: int = 0, candidate: Tensor | None = None
) -> Tensor:
    """The negatives (B, P) bool that a detector learns from: the `ratio` hardest for each positive of the image (SSD).

    losses (B, P), positive (B, P) bool; `candidate` (B, P) bool says which may be chosen (default: all that are not
    positive), `least` is chosen in an image without positives. arXiv:1512.02325, section 2.2.
    """
    candidate = ~positive if candidate is None else candidate & ~positive
    wanted = (positive.sum(1, keepdim=True) * ratio).clamp(min=least)
    order = torch.where(candidate, losses.detach(), -torch.inf).argsort(dim=1, descending=True, stable=True)
    places = torch.arange(losses.shape[1], device=losses.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, places)
    return candidate & (rank < wanted)


def class_weights(counts: Tensor, method: str = "balanced", *, beta: float | None = None) -> Tensor:
    """Weights (C,) float32 of mean 1 over the classes that occur, from how often each does: `counts` (C,).

    "balanced": 1 / n. "effective_number": (1 - beta) / (1 - beta^n) (arXiv:1901.05555), which is 1 / n for n well below
    N = 1 / (1 - beta) and the same for all n well above it. The paper's beta of 0.9999 is for objects; pixels, a
    million to a class, would all weigh the same. So N is the median of the counts that are above 0 unless `beta` is
    given: rare classes weigh as in "balanced", while frequent ones stop losing weight, whatever the size of the images.
    "median_frequency": median n / n (arXiv:1411.4734), not brought to mean 1. A class that never occurs gets 1.
    """
    counts = torch.as_tensor(counts, dtype=torch.float64)
    if counts.ndim != 1 or (counts < 0).any():
        raise ValueError(f"class_weights: counts {counts.tolist()}; expected one number of 0 or more for each class")
    if beta is not None and not 0 <= beta < 1:
        raise ValueError(f"class_weights: beta {beta}; expected 0 or more and below 1")
    occurs = counts > 0
    if not occurs.any():
        return torch.ones(len(counts))
    safe, median = torch.where(occurs, counts, 1), counts[occurs].quantile(0.5)
    if method == "balanced":
        weights = 1 / safe
    elif method == "effective_number":
        step = 1 / median.clamp(min=1) if beta is None else torch.tensor(1 - beta, dtype=torch.float64)
        weights = step / -torch.expm1(safe * torch.log1p(-step))
    elif method == "median_frequency":
        return torch.where(occurs, median / safe, 1).float()
    else:
        known = "balanced, effective_number, median_frequency"
        raise ValueError(f"class_weights: method {method!r} is not known; choose one of: {known}")
    return torch.where(occurs, weights / weights[occurs].mean(), 1).float()
