"""Boxes as offsets from reference boxes (anchors, proposals), and back."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["MAX_LOG_SCALE", "decode_boxes", "encode_boxes"]

MAX_LOG_SCALE = math.log(1000.0 / 16)  # decoded boxes grow at most to 62.5 times their reference, as in Detectron

Weights = tuple[float, float, float, float]
_UNIT: Weights = (1.0, 1.0, 1.0, 1.0)
_SMALLEST = 1e-6  # pixels; sides below it would make infinite offsets, which even a zero weight turns into NaN


def _centres_and_sides(boxes: Tensor) -> tuple[Tensor, Tensor]:
    sides = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + 0.5 * sides, sides


def encode_boxes(boxes: Tensor, references: Tensor, weights: Weights = _UNIT) -> Tensor:
    """Offsets (..., 4) that take `references` to `boxes` (R-CNN, arXiv:1311.2524, appendix C).

    weights_xy * (centre difference) / reference side, weights_wh * log(side ratio). Both xyxy (..., 4), broadcast.
    Sides below 1e-6 pixels count as 1e-6, so padding gives finite values.
    """
    centres, sides = _centres_and_sides(boxes)
    reference_centres, reference_sides = _centres_and_sides(references)
    sides, reference_sides = sides.clamp(min=_SMALLEST), reference_sides.clamp(min=_SMALLEST)
    shift = (centres - reference_centres) / reference_sides
    scale = torch.log(sides / reference_sides)
    wx, wy, ww, wh = weights
    return torch.stack([shift[..., 0] * wx, shift[..., 1] * wy, scale[..., 0] * ww, scale[..., 1] * wh], -1)


def decode_boxes(
    deltas: Tensor, references: Tensor, weights: Weights = _UNIT, max_log_scale: float = MAX_LOG_SCALE
) -> Tensor:
    """Boxes xyxy (..., 4) from offsets (..., 4) and `references`, the inverse of `encode_boxes`; broadcast.

    Sides grow at most by exp(max_log_scale). Not clipped to the image. float32 whatever comes in.
    """
    deltas = deltas.float()
    centres, sides = _centres_and_sides(references.float())
    wx, wy, ww, wh = weights
    shift = torch.stack([deltas[..., 0] / wx, deltas[..., 1] / wy], -1)
    scale = torch.stack([deltas[..., 2] / ww, deltas[..., 3] / wh], -1)
    centres = shift * sides + centres
    half = 0.5 * (scale.clamp(max=max_log_scale).exp() * sides)
    return torch.cat([centres - half, centres + half], -1)
