"""Semantic segmentation of images larger than memory: overlapping tiles, blended with Gaussian weights."""

from __future__ import annotations

import torch
from torch import Tensor

from vision.engine.tta import mean_logits, predict_augmented, probabilities
from vision.models.base import SegmentOutputs
from vision.models.segmenter import Segmenter

__all__ = ["gaussian_window", "predict_tiled", "tile_starts"]


def tile_starts(length: int, tile: int, overlap: float) -> list[int]:
    """Where tiles begin along a side of `length` pixels: they overlap by at least the share `overlap` and cover it all.

    Evenly spaced, the last one ending at the side's end; [0] where one tile is enough.
    """
    if length <= tile:
        return [0]
    step = max(int(tile * (1 - overlap)), 1)
    count = -(-(length - tile) // step) + 1
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def gaussian_window(height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """(height, width) float32 weights of a tile: 1 in its middle, standard deviation an eighth of the side, above 0."""
    sides = []
    for side in (height, width):
        offset = torch.arange(side, device=device, dtype=torch.float32) - (side - 1) / 2
        sides.append(torch.exp(-0.5 * (offset / (side / 8)) ** 2).clamp(min=1e-3))
    return sides[0][:, None] * sides[1]


@torch.no_grad()
def predict_tiled(
    model: Segmenter, images: Tensor, tile: int, overlap: float = 0.25, *, tta: bool = False
) -> SegmentOutputs:
    """What `model` says of `images` (B, C, H, W), seen through square tiles of side `tile` that overlap by a share.

    The images may lie on another device than the model: tiles travel one after the other, and the sums stay where the
    images are, so the model's device holds one tile of each image. Probabilities are blended; the logits returned are
    theirs. `tta`: each tile is also seen mirrored and scaled. ValueError when tile or overlap are out of range.
    """
    if tile < 1 or not 0 <= overlap < 1:
        raise ValueError(
            f"predict_tiled: tile {tile}, overlap {overlap}; expected a side of 1 or more, a share below 1"
        )
    height, width = images.shape[-2:]
    device = next(model.parameters()).device
    window = gaussian_window(min(tile, height), min(tile, width), images.device)
    total, weight = None, images.new_zeros((height, width), dtype=torch.float32)
    for top in tile_starts(height, tile, overlap):
        for left in tile_starts(width, tile, overlap):
            place = (..., slice(top, top + tile), slice(left, left + tile))
            part = images[place].to(device)
            outputs = predict_augmented(model, part) if tta else model(part)
            probability = probabilities(model, outputs.logits).to(images.device)
            if total is None:
                total = probability.new_zeros((len(images), probability.shape[1], height, width))
            total[place] += probability * window
            weight[place] += window
    return SegmentOutputs(mean_logits(model, total.div_(weight)), [])
