"""Features of regions: proposals from an RPN's outputs, and RoIAlign over a pyramid, batched and of fixed shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

from vision.ops.boxes import box_area
from vision.ops.static_nms import keep_mask
from vision.ops.tracing import is_exporting

__all__ = ["Proposals", "clip_to_image", "pool_regions", "pyramid_level", "select_proposals"]


class Proposals(NamedTuple):
    """boxes (B, K, 4) xyxy by falling score, scores (B, K) in [0, 1], valid (B, K) bool: False where too few are."""

    boxes: Tensor
    scores: Tensor
    valid: Tensor


def clip_to_image(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes (..., 4) moved inside one image size (height, width) that serves all of them; no tensor of sizes needed."""
    x, y = boxes[..., 0::2].clamp(0, size[1]), boxes[..., 1::2].clamp(0, size[0])
    return torch.stack([x, y], -1).flatten(-2)


@torch.no_grad()
def select_proposals(
    logits: Tensor,
    boxes: Tensor,
    level_counts: Sequence[int],
    image_size: tuple[int, int],
    *,
    per_level: int,
    count: int,
    iou_threshold: float = 0.7,
    score_threshold: float = 0.0,
    smallest: float = 1e-3,
) -> Proposals:
    """The best `count` proposals of each image: the best `per_level` of each level, clipped, NMS within a level.

    logits (B, P) and boxes (B, P, 4) of all levels one after the other, `level_counts` places each. Boxes with a side
    below `smallest` pixels after clipping, or a probability below `score_threshold`, drop out. No gradient.
    """
    width = min(per_level, max(level_counts))
    scores, chosen = [], []
    for score, box in zip(logits.float().split(list(level_counts), 1), boxes.split(list(level_counts), 1)):
        score, place = score.topk(min(per_level, score.shape[1]), dim=1)
        box = box.gather(1, place.unsqueeze(-1).expand(-1, -1, 4))
        missing = width - score.shape[1]
        scores.append(F.pad(score.sigmoid(), (0, missing), value=-1.0))
        chosen.append(F.pad(box, (0, 0, 0, missing)))
    score = torch.stack(scores, 1)  # (B, L, width), -1 where a level has fewer places
    box = clip_to_image(torch.stack(chosen, 1), image_size)  # (B, L, width, 4)
    large = (box[..., 2:] - box[..., :2] >= smallest).all(-1)
    valid = large & (score >= max(score_threshold, 0.0))
    keep = keep_mask(box.flatten(0, 1), valid.flatten(0, 1), iou_threshold).view_as(valid)
    ranked = torch.where(keep, score, -1.0).flatten(1)
    best, place = ranked.topk(min(count, ranked.shape[1]), dim=1)
    valid = best >= 0
    box = box.flatten(1, 2).gather(1, place.unsqueeze(-1).expand(-1, -1, 4)) * valid.unsqueeze(-1)
    return Proposals(box, best.clamp(min=0), valid)


def pyramid_level(boxes: Tensor, strides: Sequence[int]) -> Tensor:
    """Which of the maps of `strides` (powers of two) serves each box (..., 4) -> (...) int64.

    floor(4 + log2(sqrt(area) / 224)), held inside the levels that there are (FPN, arXiv:1612.03144, eq. 1).
    """
    lowest, highest = (math.log2(stride) for stride in (strides[0], strides[-1]))
    level = torch.floor(4 + torch.log2(box_area(boxes).clamp(min=1e-9).sqrt() / 224) + 1e-6)
    return (level.clamp(lowest, highest) - lowest).long()


def pool_regions(
    features: Sequence[Tensor], boxes: Tensor, images: Tensor, strides: Sequence[int], size: int
) -> Tensor:
    """RoIAlign (arXiv:1703.06870) with 2 x 2 samples a bin: maps (B, C, h, w) -> (N, C, size, size).

    boxes (N, 4) xyxy in input pixels and images (N,) int64, the image of each. Each box reads the map that
    `pyramid_level` names. Equal to torchvision's MultiScaleRoIAlign(sampling_ratio=2), of static shape and without a
    host sync. Differentiable in the maps; float32, where no gradient is wanted in the maps' own precision.
    """
    boxes = boxes.detach().float()
    level = pyramid_level(boxes, strides)
    if is_exporting():
        return _pool_by_operator(features, boxes, images, level, strides, size)
    # all maps as one table of rows of C values; every bin is a weighted sum of 16 of them
    table = torch.cat([f.permute(0, 2, 3, 1).reshape(-1, f.shape[1]) for f in features])
    index, weight = _bin_taps(features, boxes, images, level, strides, size)
    dtype = torch.float32 if torch.is_grad_enabled() else table.dtype
    pooled = _WeightedRows.apply(table.to(dtype), index, weight.to(dtype))
    return pooled.view(boxes.shape[0], size, size, features[0].shape[1]).permute(0, 3, 1, 2)


class _WeightedRows(torch.autograd.Function):
    """Sums of weighted rows: table (R, C), index and weight (M, T) -> (M, C). The gradient is for the table alone."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(index, weight)
        ctx.rows = table.shape[0]
        return F.embedding_bag(index, table, per_sample_weights=weight, mode="sum")

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        index, weight = ctx.saved_tensors
        # with the entries sorted by row, every row of the table is the weighted sum of the bins that read it
        row, order = index.flatten().sort()
        start = torch.searchsorted(row, torch.arange(ctx.rows, device=row.device))
        total = F.embedding_bag(
            order // index.shape[1],
            gradient.contiguous(),
            start,
            per_sample_weights=weight.flatten()[order].to(gradient.dtype),
            mode="sum",
        )
        return total, None, None


def _pool_by_operator(
    features: Sequence[Tensor], boxes: Tensor, images: Tensor, level: Tensor, strides: Sequence[int], size: int
) -> Tensor:
    """The same through torchvision's operator on every level, for exports, whose formats know that operator."""
    rois = torch.cat([images.to(boxes.dtype).unsqueeze(1), boxes], 1)
    pooled = [
        roi_align(feature.float(), rois, (size, size), 1.0 / stride, 2) * (level == i).view(-1, 1, 1, 1)
        for i, (feature, stride) in enumerate(zip(features, strides))
    ]
    return torch.stack(pooled).sum(0)


def _bin_taps(
    features: Sequence[Tensor], boxes: Tensor, images: Tensor, level: Tensor, strides: Sequence[int], size: int
) -> tuple[Tensor, Tensor]:
    """Rows of the table of all maps and their weights: two of (N * size * size, 16)."""
    height, width, first = (torch.zeros_like(level) for _ in range(3))
    scale, start = torch.zeros_like(boxes[:, 0]), 0
    for i, (feature, stride) in enumerate(zip(features, strides)):
        here, (rows, columns) = level == i, feature.shape[-2:]
        height, width = torch.where(here, rows, height), torch.where(here, columns, width)
        first = torch.where(here, start + images * (rows * columns), first)
        scale = torch.where(here, 1.0 / stride, scale)
        start += feature.shape[0] * rows * columns
    boxes = boxes * scale.unsqueeze(1)
    row, row_weight = _axis_taps(boxes[:, 1], boxes[:, 3], height, size)  # (N, size, 4)
    column, column_weight = _axis_taps(boxes[:, 0], boxes[:, 2], width, size)
    row = first.view(-1, 1, 1) + row * width.view(-1, 1, 1)
    index = row[:, :, None, :, None] + column[:, None, :, None, :]  # (N, size, size, 4, 4)
    weight = row_weight[:, :, None, :, None] * column_weight[:, None, :, None, :]
    return index.reshape(-1, 16), weight.reshape(-1, 16)


def _axis_taps(low: Tensor, high: Tensor, length: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Along one axis: both neighbours of the two samples of every bin, and their weights, two of (N, size, 4).

    As torchvision's with aligned=False: a region is at least one cell long; samples more than one cell outside of the
    map weigh nothing, nearer ones read the border.
    """
    step = ((high - low).clamp(min=1.0) / size).view(-1, 1, 1)
    place = torch.arange(size, device=low.device, dtype=low.dtype)[:, None]
    within = (torch.arange(2, device=low.device, dtype=low.dtype) + 0.5) / 2
    sample = low.view(-1, 1, 1) + place * step + within * step  # (N, size, 2)
    length = length.view(-1, 1, 1)
    inside = (sample >= -1) & (sample <= length)
    sample = sample.clamp(min=0)
    left = torch.minimum(sample.long(), length - 1)
    right = torch.minimum(left + 1, length - 1)
    share = torch.where(left >= length - 1, 0.0, sample - left)
    weight = torch.stack([1 - share, share], -1) * (0.5 * inside)[..., None]  # half: the mean of two samples
    return torch.stack([left, right], -1).flatten(2), weight.flatten(2)
