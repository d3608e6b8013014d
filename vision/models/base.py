"""The contract that every model keeps, and the typed outputs that forward returns.

forward(images, targets=None) -> Outputs        fixed-shape tensors; never depends on `training`
loss(outputs, targets) -> dict of 0-dim float32 tensors, already weighted; the engine adds them up
decode(outputs, sizes) -> list[Detections] | list[Segmentation]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vision.structures import ClassMap, Detections, Segmentation, Targets, _TensorData

__all__ = ["DenseOutputs", "HeatmapOutputs", "RoiOutputs", "RoiStage", "SegmentOutputs", "TrainStep", "VisionModel"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

FAR_ABOVE_1 = 16  # for images; noise, as in tests, may exceed 1 a little


@dataclass(frozen=True)
class DenseOutputs(_TensorData):
    """What a dense detector says of each of P places (anchors or points of all pyramid levels, finest level first).

    logits (B, P, C) · deltas (B, P, D): encoded boxes, D = 4, or 4 * bins for distributions · quality (B, P) logits of
    centre-ness or objectness, or None · anchors (P, 4) xyxy or points (P, 2) xy in input pixels · strides (P,) pixels.
    """

    logits: Tensor
    deltas: Tensor
    anchors: Tensor
    strides: Tensor
    quality: Tensor | None = None


@dataclass(frozen=True)
class RoiStage(_TensorData):
    """What one stage of a two-stage detector says of K boxes an image, and which objects they stand for.

    boxes (B, K, 4) xyxy, the boxes that it refines · valid (B, K) bool, False for padding · logits (B, K, C + 1),
    background last · deltas (B, K, C or 1, 4), encoded · index (B, K) int64, with targets only: the row of `Targets`,
    -1 background, -2 neither.
    """

    boxes: Tensor
    valid: Tensor
    logits: Tensor
    deltas: Tensor
    index: Tensor | None = None


@dataclass(frozen=True)
class RoiOutputs(_TensorData):
    """What a two-stage detector says: its RPN's dense outputs (None where proposals were given), and its stages.

    Without targets the boxes of the first stage are the proposals by falling score; with targets they are the sampled
    regions, positives first · features: the pyramid that regions are read from · mask_logits (B, M, C, m, m), with
    targets only: of the first M boxes of the first stage · semantic (B, C', h, w) logits of a panoptic model.
    """

    rpn: DenseOutputs | None
    stages: list[RoiStage]
    features: list[Tensor]
    mask_logits: Tensor | None = None
    semantic: Tensor | None = None


@dataclass(frozen=True)
class HeatmapOutputs(_TensorData):
    """CenterNet's maps at one stride: heatmap logits (B, C, h, w) · size (B, 2, h, w) · offset (B, 2, h, w)."""

    heatmap: Tensor
    size: Tensor
    offset: Tensor


@dataclass(frozen=True)
class SegmentOutputs(_TensorData):
    """Class scores a pixel: logits (B, C, H, W) at the size of the input images; auxiliary: list of (B, C, h, w)
    logits of deep supervision at any size, empty where there is none."""

    logits: Tensor
    auxiliary: list


class VisionModel(nn.Module):
    """Base of all models: normalisation and padding of the input, class names, and the three verbs.

    A subclass sets `task` ("detection", "instance", "semantic" or "panoptic") and `divisor` (the input is padded on
    its right and bottom to a multiple of it). `mean` and `std` are per channel, in [0, 1] units, kept as buffers.
    `arguments` is what `build_model` was called with: {"name": ..., options}; checkpoints carry it.
    """

    task: str = "detection"
    divisor: int = 32

    def __init__(
        self,
        classes: ClassMap | Sequence[str] | int,
        *,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ):
        super().__init__()
        if len(mean) != len(std):
            raise ValueError(f"{type(self).__name__}: {len(mean)} means but {len(std)} standard deviations")
        self.classes = ClassMap.of(classes)
        self.arguments: dict[str, Any] = {}
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    @property
    def reads(self) -> str:
        """The annotations that it learns from: a task of `open_dataset`."""
        return self.task

    def prepare(self, images: Tensor) -> Tensor:
        """Normalised images, padded with zeros (the mean colour) on the right and bottom to a multiple of `divisor`.

        images (B, C, H, W): uint8, or floating point in [0, 1]. ValueError when the channels do not fit, and for bytes
        as floating-point numbers (on a CPU: a GPU would have to be waited for).
        """
        if images.ndim != 4 or images.shape[1] != self.mean.shape[1]:
            raise ValueError(
                f"{type(self).__name__}: images of shape {tuple(images.shape)}; "
                f"expected (B, {self.mean.shape[1]}, H, W)"
            )
        looked_at = images.is_floating_point() and images.device.type == "cpu" and not torch.compiler.is_compiling()
        if looked_at and images.numel() and images.amax() > FAR_ABOVE_1:
            raise ValueError(
                f"{type(self).__name__}: images of {images.dtype} up to {float(images.amax()):g}; expected uint8, or "
                "floating point from 0 to 1: the model normalises them itself"
            )
        # in one pass over rows of W * C values, channels last: broadcasting over three channels would be slow
        batch, channels, height, width = images.shape
        scale = 1 / (255.0 * self.std) if images.dtype == torch.uint8 else 1 / self.std
        shift, scale = (values.flatten().repeat(width) for values in (-self.mean / self.std, scale))  # (W * C,)
        rows = images.permute(0, 2, 3, 1).reshape(batch, height, width * channels)
        images = torch.addcmul(shift, rows.to(self.mean.dtype), scale)
        images = images.view(batch, height, width, channels).permute(0, 3, 1, 2)
        bottom, right = (-images.shape[-2]) % self.divisor, (-images.shape[-1]) % self.divisor
        if bottom or right:
            images = F.pad(images, (0, right, 0, bottom))
        return images.contiguous(memory_format=torch.channels_last)

    def forward(self, images: Tensor, targets: Targets | None = None) -> Any:
        raise NotImplementedError

    def loss(self, outputs: Any, targets: Targets) -> dict[str, Tensor]:
        raise NotImplementedError

    def decode(self, outputs: Any, sizes: Tensor) -> list[Detections] | list[Segmentation]:
        raise NotImplementedError


class TrainStep(nn.Module):
    """The unit that DDP and torch.compile wrap: images (B, 3, H, W) and Targets -> weighted losses by name."""

    def __init__(self, model: VisionModel):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, targets: Targets) -> dict[str, Tensor]:
        return self.model.loss(self.model(images, targets), targets)
