"""The way from a source image to the network's input, and back from the network's results to the source image."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vision.data.placement import Window, place, resample
from vision.structures import Detections, Geometry, Segmentation, Target

__all__ = ["MODES", "Placement", "Preprocess", "restore_boxes", "restore_detections", "restore_segmentation"]

MODES = ("letterbox", "stretch", "keep", "shorter_side")
CLASSES_AT_ONCE = 4  # whose scores are held at the source's resolution while labels are read
TIGHT_MULTIPLE = 32  # letterbox(tight=True) pads to this, the divisor of most models


@dataclass(frozen=True)
class Placement:
    """Where one source image lies in its network image: network = source * scale + offset.

    scale and offset (x, y) · source (height, width) of the source image · size (height, width) of the content.
    """

    scale: tuple[float, float]
    offset: tuple[float, float]
    source: tuple[int, int]
    size: tuple[int, int]

    @classmethod
    def whole(cls, size: tuple[int, int]) -> Placement:
        """The placement of an image that is its own source."""
        return cls((1.0, 1.0), (0.0, 0.0), tuple(size), tuple(size))

    def geometry(self) -> Geometry:
        """The same as a Geometry of one image."""
        return Geometry(torch.tensor([self.scale]), torch.tensor([self.offset]), torch.tensor([self.source]))


@dataclass(frozen=True)
class Preprocess:
    """What is done to every image before the network sees it; travels in the checkpoint.

    letterbox: scaled by one factor until it just fits into `size`, put at the top left, the rest filled with `pad`
    (top left rather than centred, so that the content of a network image is always its first rows and columns) ·
    stretch: resized to exactly `size` · keep: left as it is; `size` is then the size of training crops ·
    shorter_side: scaled by one factor so that the shorter side has size[0] pixels and the longer one at most size[1],
    whichever way round the image is (torchvision's detectors); not padded.
    `size` is (height, width); one integer means a square. `scale`, where it is known, is the factor by which images
    were resized in training (`learnt_from`): images of other sizes that are cut into tiles are resized by that one
    (`for_tiles`); with keep, all images are.
    """

    size: tuple[int, int]
    mode: str = "letterbox"
    pad: int = 114
    scale: float | None = None

    def __post_init__(self) -> None:
        size = (self.size, self.size) if isinstance(self.size, int) else tuple(int(side) for side in self.size)
        object.__setattr__(self, "size", size)
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"Preprocess: size {self.size}; expected (height, width) of at least one pixel each")
        if self.mode not in MODES:
            raise ValueError(f"Preprocess: mode {self.mode!r}; expected one of {', '.join(MODES)}")
        if not 0 <= self.pad <= 255:
            raise ValueError(f"Preprocess: pad {self.pad}; expected a grey value in 0..255")
        if self.scale is not None and not self.scale > 0:
            raise ValueError(f"Preprocess: scale {self.scale}; expected a factor above 0, or None")

    def to_dict(self) -> dict[str, Any]:
        known = {} if self.scale is None else {"scale": self.scale}
        return {"size": list(self.size), "mode": self.mode, "pad": self.pad, **known}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Preprocess:
        """The Preprocess that `to_dict` described. ValueError names keys that it does not have."""
        unknown = set(content) - {field.name for field in dataclasses.fields(cls)}
        if unknown:
            raise ValueError(f"Preprocess: unknown {', '.join(sorted(unknown))}; known are size, mode, pad, scale")
        return cls(**content)

    def resized(self, size: tuple[int, int]) -> Preprocess:
        """The same for another network size."""
        return dataclasses.replace(self, size=size)

    def learnt_from(self, sizes: Sequence[tuple[int, int]]) -> Preprocess:
        """The same with the `scale` that training images of `sizes` (height, width) are resized by: the median of the
        mean of both sides' factors. With keep nothing is resized, and nothing changes."""
        if self.mode == "keep" or not len(sizes):
            return self
        factors = [float(np.mean(self.fit(size))) for size in sizes]
        return dataclasses.replace(self, scale=float(np.median(factors)))

    def for_tiles(self) -> Preprocess:
        """How large images are prepared that are looked at in tiles: resized by `scale`, not at all without one."""
        return dataclasses.replace(self, mode="keep")

    def fit(self, source: tuple[int, int], size: tuple[int, int] | None = None) -> tuple[float, float]:
        """The factors (y, x) by which an image of `source` = (height, width) is resized for `size` (default: own)."""
        size = self.size if size is None else size
        factors = size[0] / source[0], size[1] / source[1]
        if self.mode == "letterbox":
            return (min(factors),) * 2
        if self.mode == "shorter_side":
            return (min(size[0] / min(source), size[1] / max(source)),) * 2
        return factors if self.mode == "stretch" else (self.scale or 1.0,) * 2

    def content_size(self, source: tuple[int, int]) -> tuple[int, int]:
        """Height and width that an image of `source` = (height, width) has after resizing, without padding."""
        factors = self.fit(source)
        return max(1, round(source[0] * factors[0])), max(1, round(source[1] * factors[1]))

    def apply(
        self, image: np.ndarray, target: Target | None = None, *, tight: bool = False
    ) -> tuple[np.ndarray, Placement, Target | None]:
        """The network's image uint8 (H, W, 3), where the source lies in it, and the target in its pixels.

        No object is dropped, however small it becomes. `tight` (letterbox) pads only to the next multiple of 32 rather
        than to `size`: less to compute for one picture whose sides differ.
        """
        source = image.shape[:2]
        height, width = self.content_size(source)
        placement = Placement((width / source[1], height / source[0]), (0.0, 0.0), source, (height, width))
        canvas = self.size if self.mode == "letterbox" else (height, width)
        if tight:
            canvas = tuple(min(-(-side // TIGHT_MULTIPLE) * TIGHT_MULTIPLE, full)
                           for side, full in zip((height, width), canvas))  # fmt: skip
        resized = resample(image, (height, width))
        if canvas != (height, width):
            bottom, right = canvas[0] - height, canvas[1] - width
            resized = cv2.copyMakeBorder(resized, 0, bottom, 0, right, cv2.BORDER_CONSTANT, value=(self.pad,) * 3)
        if target is None:
            return resized, placement, None
        window = Window((0, 0, source[1], source[0]), (0, 0, width, height))
        return resized, placement, place(target, window, canvas, rule=None)


def restore_boxes(boxes: Tensor, geometry: Geometry, i: int = 0) -> Tensor:
    """Boxes (N, 4) of network image `i` in pixels of its source image, clipped to it."""
    scale, offset = geometry.scale[i].to(boxes), geometry.offset[i].to(boxes)
    height_width = geometry.source[i].to(boxes)
    limit = height_width.flip(0).repeat(2)
    return ((boxes - offset.repeat(2)) / scale.repeat(2)).clamp(min=0).minimum(limit)


def restore_detections(detections: Detections, geometry: Geometry, i: int = 0) -> Detections:
    """Detections of network image `i` in pixels of its source image: boxes clipped, masks (N, height, width) bool."""
    masks = detections.masks
    if masks is not None:
        # a few masks at a time: as floats at the source's resolution they are large
        height, width = (int(side) for side in geometry.source[i])
        parts = [_to_source(part[None].float(), geometry, i, 0.0)[0] > 0.5 for part in masks.split(16) if len(part)]
        masks = torch.cat(parts) if parts else masks.new_zeros((0, height, width), dtype=torch.bool)
    return dataclasses.replace(detections, boxes=restore_boxes(detections.boxes, geometry, i), masks=masks)


def restore_segmentation(
    segmentation: Segmentation, geometry: Geometry, i: int = 0, *, scores: bool = True
) -> Segmentation:
    """The segmentation of network image `i` at the resolution of its source image.

    Where there are scores they are interpolated linearly and the labels follow from them by the segmentation's rule;
    else labels are taken from the nearest pixel. Without `scores` the labels are the same and come alone: the scores of
    a few classes at a time are in memory.
    """
    rule = segmentation.rule
    if segmentation.scores is None:
        labels = segmentation.labels[None, None].double()  # exact for any label
        return Segmentation(_to_source(labels, geometry, i, rule.none, mode="nearest-exact")[0, 0].long(), None, rule)
    if scores:
        restored = _to_source(segmentation.scores[None].float(), geometry, i, 0.0)[0]
        return Segmentation(rule.labels(restored), restored, rule)
    best = label = None
    for start in range(rule.first, len(segmentation.scores), CLASSES_AT_ONCE):
        part = segmentation.scores[start : start + CLASSES_AT_ONCE].float()
        value, place = _to_source(part[None], geometry, i, 0.0)[0].max(0)
        if best is None:
            best, label = value, place + start
        else:
            label = torch.where(value > best, place + start, label)
            best = torch.maximum(best, value)
    return Segmentation(rule.decide(best, label), None, rule)


def _to_source(maps: Tensor, geometry: Geometry, i: int, outside: float, mode: str = "bilinear") -> Tensor:
    """Maps (1, C, H, W) of network image `i` cut to where the source lies and resized to the source's size."""
    height, width = (int(side) for side in geometry.source[i])
    scale, offset = geometry.scale[i].tolist(), geometry.offset[i].tolist()
    left, top = round(offset[0]), round(offset[1])
    right, bottom = round(offset[0] + width * scale[0]), round(offset[1] + height * scale[1])
    maps = F.pad(maps, (-left, right - maps.shape[-1], -top, bottom - maps.shape[-2]), value=outside)
    if maps.shape[-2:] == (height, width):
        return maps
    align = {"align_corners": False} if mode == "bilinear" else {}
    return F.interpolate(maps, (height, width), mode=mode, **align)
