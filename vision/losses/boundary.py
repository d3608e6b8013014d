"""Losses on the contours of segmentations; distance maps are exact and made where the labels are.

The two distance losses take images (B, C, H, W) and volumes (B, C, D, H, W), the other two images. Shapes, `ignore`,
absent classes and `class_weight` are as in `region.py`. Distances are in pixels of the labels. The distance losses
grow with the size of the image: give them a small weight beside a region loss, raised over the epochs.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from vision.losses.known_slope import of_known_slope, probabilities, truth_of
from vision.losses.reduction import check_reduction, mean_over_present, to_float
from vision.losses.region_sums import check_labels, is_multi_class
from vision.ops.distance import float_distance_transform

__all__ = [
    "border_weight_map",
    "boundary_iou_loss",
    "boundary_loss",
    "hausdorff_distance_loss",
    "hausdorff_erosion_loss",
    "signed_distance",
]


def signed_distance(mask: Tensor, dims: int = 2) -> Tensor:
    """Distance to the contour of `mask` (..., [D,] H, W) bool, positive outside and negative inside, float32.

    A pixel outside has its distance to the nearest pixel inside; one inside has 1 - (distance to the nearest outside),
    so the inner contour is 0 (as in arXiv:1812.07032's code). All 0 where the mask, of `dims` dimensions, is empty or
    full.
    """
    distance = torch.where(mask, 1 - float_distance_transform(mask, dims), float_distance_transform(~mask, dims))
    return torch.where(distance.isfinite(), distance, 0) * _has_contour(mask, dims)


def boundary_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    ignore: int | None = 255,
    class_weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Mean over the pixels of probability times signed distance to the true contour (Kervadec, arXiv:1812.07032).

    Negative where a prediction is good. It does not punish a prediction that is empty: add a region loss.
    """
    multi_class, labels = _checked("boundary_loss", logits, labels, ignore, reduction, (2, 3))
    with torch.no_grad():
        probability = probabilities(logits, multi_class)
        slope = torch.empty_like(probability)
        share = _share(labels, multi_class, ignore, slope)
        present = []
        for channel in range(logits.shape[1]):  # one class at a time bounds the memory of the distance maps
            truth, part = truth_of(labels, channel, multi_class), _of_channel(share, channel)
            slope[:, channel] = signed_distance(truth, logits.ndim - 2) * part
            present.append((truth & (part > 0)).any())
        value = (probability * slope).flatten(2).sum((0, 2))
    loss = of_known_slope(logits, probability, slope, value, multi_class)
    return mean_over_present(loss, torch.stack(present), class_weight, reduction)


def hausdorff_distance_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    power: float = 2.0,
    ignore: int | None = 255,
    class_weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Mean of (p - t)^2 (d_p^power + d_t^power), d the distances to both contours (arXiv:1904.10030, eq. 8).

    The prediction's contour is that of p > 0.5 and held constant.
    """
    multi_class, labels = _checked("hausdorff_distance_loss", logits, labels, ignore, reduction, (2, 3))
    with torch.no_grad():
        probability = probabilities(logits, multi_class)
        slope = torch.empty_like(probability)
        share = _share(labels, multi_class, ignore, slope)
        values, present = [], []
        for channel in range(logits.shape[1]):
            truth, part = truth_of(labels, channel, multi_class), _of_channel(share, channel)
            found = probability[:, channel] > 0.5
            distance = _to_contour(found) ** power + _to_contour(truth) ** power
            error = probability[:, channel] - truth.to(slope.dtype)
            slope[:, channel] = 2 * error * distance * part
            values.append((slope[:, channel] * error).sum() / 2)
            present.append((truth & (part > 0)).any())
    loss = of_known_slope(logits, probability, slope, torch.stack(values), multi_class)
    return mean_over_present(loss, torch.stack(present), class_weight, reduction)


def hausdorff_erosion_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    power: float = 2.0,
    erosions: int = 10,
    ignore: int | None = 255,
    class_weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Mean of sum_k k^power ((p - t)^2 eroded k times), k = 1 .. `erosions` (arXiv:1904.10030, eq. 10).

    Thick errors cost most. An erosion is the mean over a cross of five pixels, thresholded softly: max(0, 2 m - 1).
    The factor 2, which the paper does not have, keeps a solid error of 1 at 1; without it nothing is left after the
    second erosion.
    """
    multi_class, labels = _checked("hausdorff_erosion_loss", logits, labels, ignore, reduction)
    with torch.no_grad():
        probability = probabilities(logits, multi_class)
        slope = torch.empty_like(probability)
        share = _share(labels, multi_class, ignore, slope)
        values, present = [], []
        for channel in range(logits.shape[1]):
            truth, part = truth_of(labels, channel, multi_class), _of_channel(share, channel)
            error = (probability[:, channel] - truth.to(slope.dtype)) * (part > 0)
            value, of_square = _eroded(error.square(), part, power, erosions)
            slope[:, channel] = 2 * error * of_square
            values.append(value)
            present.append((truth & (part > 0)).any())
    loss = of_known_slope(logits, probability, slope, torch.stack(values), multi_class)
    return mean_over_present(loss, torch.stack(present), class_weight, reduction)


def _eroded(values: Tensor, share: Tensor, power: float, erosions: int) -> tuple[Tensor, Tensor]:
    """sum_k k^power sum(share * values eroded k times), and its slope in `values` (B, H, W)."""
    total, alive = values.new_zeros(()), []
    for step in range(1, erosions + 1):
        values = (0.4 * _cross_sum(values) - 1).relu()
        alive.append(values > 0)
        total = total + step**power * (values * share).sum()
    slope = torch.zeros_like(share)
    for step in range(erosions, 0, -1):  # the cross is symmetric: its transpose is itself
        slope = (slope + step**power * share) * alive[step - 1]
        slope = 0.4 * _cross_sum(slope)
    return total, slope


def _cross_sum(values: Tensor) -> Tensor:
    """Each pixel of (B, H, W) and its four neighbours; a convolution would lose digits under autocast."""
    padded = F.pad(values, (1, 1, 1, 1))
    return values + padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1] + padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:]


def boundary_iou_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    width: int = 2,
    ignore: int | None = 255,
    class_weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """1 - soft IoU of the inner contours, `width` pixels wide (Boundary IoU, arXiv:2103.16562, made differentiable).

    The contour of p is p minus its minimum over a square of side 2 width + 1: for a mask, its pixels within `width`
    (by the larger coordinate) of one outside it. The edge of the image is no contour.
    """
    multi_class, labels = _checked("boundary_iou_loss", logits, labels, ignore, reduction)
    probability = to_float(logits)
    probability = probability.softmax(1) if multi_class else probability.sigmoid()
    keep = _share(labels, multi_class, ignore, probability) > 0
    losses, present = [], []
    for channel in range(logits.shape[1]):
        counts = _of_channel(keep, channel)
        truth = truth_of(labels, channel, multi_class).to(probability.dtype)
        true, found = _contour(truth, counts, width), _contour(probability[:, channel], counts, width)
        overlap, total = (true * found).sum(), true.sum()
        some = total > 0
        losses.append(1 - overlap / torch.where(some, total + found.sum() - overlap, 1))
        present.append(some)
    return mean_over_present(torch.stack(losses), torch.stack(present), class_weight, reduction)


def border_weight_map(instances: Tensor, *, w0: float = 10.0, sigma: float = 5.0) -> Tensor:
    """U-Net's pixel weights 1 + w0 exp(-(d1 + d2)^2 / (2 sigma^2)) that force apart cells that nearly touch.

    instances (B, H, W) integers, 0 = background, 1, 2, ... = cells of the image (`connected_components` of a mask) ->
    (B, H, W) float32. d1 and d2 are a background pixel's distances to the nearest and the second nearest cell; inside
    cells, and where there are fewer than two, the weight is 1 (arXiv:1505.04597, eq. 2; multiply by class weights for
    its w_c).
    """
    if instances.ndim != 3:
        raise ValueError(f"border_weight_map: instances {tuple(instances.shape)}; expected (B, H, W)")
    # beyond this sum of distances the second summand is below half a unit in the last place of 1
    reach = math.ceil(sigma * math.sqrt(2 * math.log(max(w0 * 2**25, 1))))
    nearest, second = _nearest_two(instances, reach)
    weight = w0 * torch.exp(-((nearest.sqrt() + second.sqrt()) ** 2) / (2 * sigma**2))
    return 1 + torch.where(instances == 0, weight, 0)


def _nearest_two(instances: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    """Squared distances (B, H, W) to the nearest and to the second nearest cell; exact up to `reach`, infinite beyond.

    First within columns, then across them. A cell that is not among a column's nearest two at some height is farther
    than both of those from every pixel of that row, so that two cells a pixel are enough to hand on.
    """
    first = (torch.where(instances > 0, 0.0, torch.inf), instances)
    second = (torch.full_like(first[0], torch.inf), torch.zeros_like(instances))
    for dim in (1, 2):
        sources = [first] if dim == 1 else [first, second]
        size, span = instances.shape[dim], min(reach, instances.shape[dim] - 1)
        margin = (0, 0, span, span) if dim == 1 else (span, span)
        padded = [(F.pad(square, margin, value=torch.inf), F.pad(label, margin)) for square, label in sources]
        for offset in [sign * step for step in range(1, span + 1) for sign in (-1, 1)]:
            for square, label in padded:
                square, label = (part.narrow(dim, span + offset, size) for part in (square, label))
                first, second = _with_candidate(first, second, square + offset**2, label)
    return first[0], second[0]


def _with_candidate(
    first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], square: Tensor, label: Tensor
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The nearest two of different labels among (squared distance, label) `first`, `second` and one more."""
    closer, same = square < first[0], label == first[1]
    runner_up = torch.where(closer, first[0], torch.minimum(second[0], square))
    of_runner_up = torch.where(closer, first[1], torch.where(square < second[0], label, second[1]))
    return (
        (torch.minimum(first[0], square), torch.where(closer, label, first[1])),
        (torch.where(same, second[0], runner_up), torch.where(same, second[1], of_runner_up)),
    )


def _checked(
    name: str, logits: Tensor, labels: Tensor, ignore: int | None, reduction: str, dims: tuple[int, ...] = (2,)
) -> tuple[bool, Tensor]:
    """Whether there is one class a pixel, and the labels: (B, H, W) then, else (B, C, H, W)."""
    check_reduction(name, reduction)
    if logits.ndim - 2 not in dims:
        expected = " or ".join({2: "(B, C, H, W)", 3: "(B, C, D, H, W)"}[count] for count in dims)
        raise ValueError(f"{name}: logits {tuple(logits.shape)}; expected {expected}")
    multi_class = is_multi_class(name, logits, labels)
    check_labels(name, labels, logits.shape[1] if multi_class else 2, ignore)
    return multi_class, labels if multi_class else labels.reshape(logits.shape)


def _share(labels: Tensor, multi_class: bool, ignore: int | None, like: Tensor) -> Tensor:
    """1 / (pixels that count) where one counts, else 0: (B, 1, ...), or (B, C, ...) for masks, in `like`'s dtype."""
    labels = labels[:, None] if multi_class else labels
    keep = torch.ones_like(labels, dtype=like.dtype) if ignore is None else (labels != ignore).to(like.dtype)
    return keep / keep.sum((0, *range(2, keep.ndim)), keepdim=True).clamp(min=1)


def _of_channel(values: Tensor, channel: int) -> Tensor:
    """(B, ...) of values that are the same for all classes (B, 1, ...), or a mask's own (B, C, ...)."""
    return values[:, channel if values.shape[1] > 1 else 0]


def _has_contour(mask: Tensor, dims: int) -> Tensor:
    """Whether masks (..., [D,] H, W) are neither empty nor full, to broadcast against them."""
    some = mask.flatten(-dims).any(-1) & ~mask.flatten(-dims).all(-1)
    return some.reshape(*some.shape, *[1] * dims)


def _to_contour(mask: Tensor) -> Tensor:
    """Each pixel's distance to the other side of the contour of `mask` (B, ...); 0 where it is empty or full."""
    dims = mask.ndim - 1
    distance = torch.where(mask, float_distance_transform(mask, dims), float_distance_transform(~mask, dims))
    return torch.where(_has_contour(mask, dims), distance, 0)


def _contour(mass: Tensor, counts: Tensor, width: int) -> Tensor:
    """The inner contour of `mass` (B, H, W) in [0, 1]; ignored pixels neither have nor make one."""
    mass = torch.where(counts, mass, 1)
    eroded = -F.max_pool2d(-mass[:, None], 2 * width + 1, stride=1, padding=width)[:, 0]
    return (mass - eroded) * counts
