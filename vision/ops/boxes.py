"""Boxes: areas, overlaps, clipping and the two ways to write them. xyxy float32 pixels unless a name says otherwise."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = [
    "IOU_KINDS",
    "box_area",
    "clip_boxes",
    "cxcywh_to_xyxy",
    "iou_and_penalties",
    "paired_iou",
    "pairwise_intersection",
    "pairwise_iou",
    "xyxy_to_cxcywh",
]

IOU_KINDS = ("iou", "giou", "diou", "ciou", "eiou", "siou")


def box_area(boxes: Tensor) -> Tensor:
    """Areas (...) of boxes (..., 4) xyxy; negative sides are not guarded against."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Boxes (..., 4) as centre x, centre y, width, height."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Boxes (..., 4) given as centre x, centre y, width, height, as xyxy."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def clip_boxes(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Boxes (..., N, 4) moved inside images of sizes (..., 2) height, width."""
    limit = sizes.flip(-1).to(boxes.dtype).repeat_interleave(2, dim=-1)  # (..., 4): h, w -> w, w, h, h
    limit = limit[..., [0, 2, 1, 3]].unsqueeze(-2)  # (..., 1, 4): w, h, w, h
    return torch.minimum(boxes.clamp(min=0), limit)


def paired_iou(a: Tensor, b: Tensor, kind: str = "iou", eps: float = 1e-7) -> Tensor:
    """Overlap of boxes `a` and `b` (..., 4), which broadcast against each other -> (...).

    kind: "iou"; "giou" (arXiv:1902.09630); "diou", "ciou" (arXiv:1911.08287); "eiou" (arXiv:2101.08158); "siou"
    (arXiv:2205.12740). All but the first can be negative. `eps` guards divisions, so a box of no area gives 0 and
    not NaN. Differentiable; CIoU's trade-off weight is held constant, as its paper says.
    """
    iou, penalties = iou_and_penalties(a, b, kind, eps)
    return iou - sum(penalties) if penalties else iou


def iou_and_penalties(a: Tensor, b: Tensor, kind: str, eps: float = 1e-7) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The plain IoU (...) of boxes and what `paired_iou` of that kind takes off it, one tensor (...) a penalty.

    iou: none; giou: the empty share of the hull; diou: the centres' distance; ciou: and the weighted aspect ratio;
    eiou: the distance, width and height; siou: half the distance cost and half the shape cost.
    """
    if kind not in IOU_KINDS:
        raise ValueError(f"paired_iou: kind {kind!r}; choose one of {', '.join(IOU_KINDS)}")
    ax1, ay1, ax2, ay2 = a.unbind(-1)
    bx1, by1, bx2, by2 = b.unbind(-1)
    overlap_width = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)).clamp(min=0)
    overlap_height = (torch.minimum(ay2, by2) - torch.maximum(ay1, by1)).clamp(min=0)
    intersection = overlap_width * overlap_height
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - intersection
    iou = intersection / (union + eps)
    if kind == "iou":
        return iou, ()
    hull_width = torch.maximum(ax2, bx2) - torch.minimum(ax1, bx1)
    hull_height = torch.maximum(ay2, by2) - torch.minimum(ay1, by1)
    if kind == "giou":
        hull = hull_width * hull_height
        return iou, ((hull - union) / (hull + eps),)
    dx, dy = (ax1 + ax2 - bx1 - bx2) / 2, (ay1 + ay2 - by1 - by2) / 2
    sides = (ax2 - ax1, ay2 - ay1, bx2 - bx1, by2 - by1)
    return iou, _penalties(kind, iou, (dx, dy), (hull_width, hull_height), sides, eps)


def _penalties(kind: str, iou: Tensor, shift: tuple, hull: tuple, sides: tuple, eps: float) -> tuple[Tensor, ...]:
    """What DIoU, CIoU, EIoU and SIoU take off the IoU, from the centres' shift, the hull and both boxes' sides."""
    (dx, dy), (hull_width, hull_height), (aw, ah, bw, bh) = shift, hull, sides
    if kind == "siou":
        return _siou_penalties(shift, hull, sides, eps)
    distance = (dx.square() + dy.square()) / (hull_width.square() + hull_height.square() + eps)
    if kind == "diou":
        return (distance,)
    if kind == "eiou":
        width, height = (aw - bw).square(), (ah - bh).square()
        return distance, width / (hull_width.square() + eps), height / (hull_height.square() + eps)
    # atan2 rather than atan(w / h): no division, so no infinite gradient at height 0
    aspect = (4 / math.pi**2) * (torch.atan2(bw, bh + eps) - torch.atan2(aw, ah + eps)).square()
    with torch.no_grad():
        weight = aspect / (1 - iou + aspect + eps)
    return distance, weight * aspect


def _siou_penalties(shift: tuple, hull: tuple, sides: tuple, eps: float) -> tuple[Tensor, Tensor]:
    """Half the distance cost and half the shape cost of SIoU, with its theta = 4."""
    (dx, dy), (hull_width, hull_height), (aw, ah, bw, bh) = shift, hull, sides
    length = (dx.square() + dy.square() + eps).sqrt()
    # angle cost 1 - 2 sin^2(arcsin(s) - pi/4) = sin(2 arcsin s) = 2 s sqrt(1 - s^2), s the sine to the nearer axis;
    # that product is the same for sine and cosine, so |dx| |dy| / length^2 serves without choosing
    angle = 2 * (dx.abs() * dy.abs()) / length.square()
    gamma = 2 - angle
    distance = (
        2
        - torch.exp(-gamma * (dx / (hull_width + eps)).square())
        - torch.exp(-gamma * (dy / (hull_height + eps)).square())
    )
    width = (aw - bw).abs() / (torch.maximum(aw, bw) + eps)
    height = (ah - bh).abs() / (torch.maximum(ah, bh) + eps)
    shape = (1 - torch.exp(-width)) ** 4 + (1 - torch.exp(-height)) ** 4
    return distance / 2, shape / 2


def pairwise_iou(a: Tensor, b: Tensor, kind: str = "iou", eps: float = 1e-7) -> Tensor:
    """Overlap of each box of `a` (..., N, 4) with each box of `b` (..., M, 4) -> (..., N, M); kinds as `paired_iou`."""
    return paired_iou(a.unsqueeze(-2), b.unsqueeze(-3), kind, eps)


def pairwise_intersection(a: Tensor, b: Tensor) -> Tensor:
    """Shared area in square pixels of every box of `a` (..., N, 4) with every box of `b` (..., M, 4) -> (..., N, M)."""
    a, b = a.unsqueeze(-2), b.unsqueeze(-3)
    sides = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    return sides.clamp(min=0).prod(-1)
