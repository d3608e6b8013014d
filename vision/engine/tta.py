"""Test-time augmentation of semantic segmentation: probabilities averaged over scales and mirror images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vision.models.base import SegmentOutputs
from vision.models.segmenter import Segmenter

__all__ = ["mean_logits", "predict_augmented", "probabilities"]


def probabilities(model: Segmenter, logits: Tensor) -> Tensor:
    """Class probabilities (B, C, H, W) float32 of logits: softmax, or sigmoids where each logit stands alone."""
    alone = logits.shape[1] == 1 or model.mode == "multilabel"
    return logits.float().sigmoid() if alone else logits.float().softmax(1)


def mean_logits(model: Segmenter, probability: Tensor) -> Tensor:
    """Logits that `probabilities` turns back into `probability` (B, C, H, W); works in place on it."""
    alone = probability.shape[1] == 1 or model.mode == "multilabel"
    least = torch.finfo(probability.dtype).tiny
    return torch.logit_(probability, eps=1e-7) if alone else probability.clamp_(min=least).log_()


def predict_augmented(
    model: Segmenter, images: Tensor, scales: Sequence[float] = (0.75, 1.0, 1.25), flip: bool = True
) -> SegmentOutputs:
    """What `model` says of `images` (B, C, H, W) resized by each of `scales`, as they are and mirrored.

    The logits returned, at the size of the images, are those of the mean probability. One scaled batch at a time is in
    memory. ValueError when there is no scale, or one that is not positive.
    """
    if not scales or min(scales) <= 0:
        raise ValueError(f"predict_augmented: scales {tuple(scales)}; expected one or more positive factors")
    height, width = images.shape[-2:]
    total, count = None, 0
    for scale in scales:
        scaled = _scaled(images, scale)
        for mirrored in (False, True) if flip else (False,):
            logits = model(scaled.flip(-1) if mirrored else scaled).logits
            probability = probabilities(model, logits.flip(-1) if mirrored else logits)
            if probability.shape[-2:] != (height, width):
                probability = F.interpolate(probability, size=(height, width), mode="bilinear", align_corners=False)
            total = probability if total is None else total.add_(probability)
            count += 1
    return SegmentOutputs(mean_logits(model, total / count), [])


def _scaled(images: Tensor, scale: float) -> Tensor:
    """Images in [0, 1] resized by `scale`; themselves when it is 1."""
    if scale == 1:
        return images
    size = [max(1, round(side * scale)) for side in images.shape[-2:]]
    unit = images.float() / 255 if images.dtype == torch.uint8 else images
    return F.interpolate(unit, size=size, mode="bilinear", align_corners=False, antialias=scale < 1)
