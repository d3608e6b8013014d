"""Cuts a rectangle out of a source image and puts it, scaled, into one of a canvas, with all that is known of it.

Letterbox, random crop, scale jitter, mosaic and copy-paste are all one such placement or several: each source pixel is
resampled once, only where it will be seen, and boxes follow with the exact factors of the two integer rectangles.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from vision.structures import Sample, Target

__all__ = [
    "Visibility",
    "Window",
    "box_areas",
    "compose",
    "ignore_of",
    "mask_boxes",
    "merge_targets",
    "place",
    "refit",
    "resample",
]

_PER_OBJECT = ("boxes", "labels", "crowd", "difficult", "area")


@dataclass(frozen=True)
class Window:
    """`source` (left, top, right, bottom), whole source pixels, goes to `destination`, whole canvas pixels."""

    source: tuple[int, int, int, int]
    destination: tuple[int, int, int, int]

    @property
    def scale(self) -> tuple[float, float]:
        """Canvas pixels per source pixel, x and y."""
        a, b = self.source, self.destination
        return (b[2] - b[0]) / (a[2] - a[0]), (b[3] - b[1]) / (a[3] - a[1])

    @property
    def offset(self) -> tuple[float, float]:
        """canvas = source * scale + offset, x and y."""
        scale = self.scale
        return self.destination[0] - self.source[0] * scale[0], self.destination[1] - self.source[1] * scale[1]


@dataclass(frozen=True)
class Visibility:
    """Which objects survive a crop: those with at least `fraction` of their box inside and sides of `side` pixels.

    A crowd stays a crowd however little of it is seen (its region must not count as background), if a pixel of it is.
    Boxes without area never survive: nothing can be learned from them.
    """

    fraction: float = 0.15
    side: float = 1.0

    def keeps(self, boxes: np.ndarray, seen: np.ndarray, crowd: np.ndarray) -> np.ndarray:
        """(N,) bool for clipped boxes (N, 4), the share of each that was not clipped away, and crowd flags (N,)."""
        sides = boxes[:, 2:] - boxes[:, :2]
        return (sides[:, 0] >= self.side) & (sides[:, 1] >= self.side) & ((seen >= self.fraction) | crowd) & (seen > 0)


def resample(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`image` (H, W) or (H, W, C) uint8 at `size` = (height, width); the image itself where the size is the same.

    Linear interpolation; below 0.4 of the size it is first halved (means of 2x2 pixels), so that little is skipped and
    aliased, at a tenth of the cost of OpenCV's INTER_AREA.
    """
    height, width = size
    while image.shape[0] > 2.5 * height and image.shape[1] > 2.5 * width:
        half = (image.shape[1] + 1) // 2, (image.shape[0] + 1) // 2
        image = cv2.resize(image, half, interpolation=cv2.INTER_LINEAR)
    if image.shape[:2] == (height, width):
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def compose(
    pieces: Sequence[tuple[Sample, Window]], size: tuple[int, int], *, pad: int = 114, rule: Visibility | None
) -> Sample:
    """One Sample of `size` = (height, width) with each piece put into its window; the rest is `pad`, unlabelled.

    Windows do not overlap. The image id is the first piece's. Semantic maps are kept when every piece has one.
    """
    image = np.full((*size, 3), pad, np.uint8)
    for sample, window in pieces:
        (left, top, right, bottom), (x0, y0, x1, y1) = window.source, window.destination
        image[y0:y1, x0:x1] = resample(sample.image[top:bottom, left:right], (y1 - y0, x1 - x0))
    targets = [place(sample.target, window, size, rule=rule) for sample, window in pieces]
    return Sample(image, merge_targets(targets, [window.destination for _, window in pieces]))


def merge_targets(targets: Sequence[Target], regions: Sequence[tuple[int, int, int, int]]) -> Target:
    """The objects of all targets (of one canvas size); each one's semantic map counts inside its region only."""
    first = targets[0]
    if len(targets) == 1:
        return first
    fields = {name: np.concatenate([getattr(target, name) for target in targets]) for name in _PER_OBJECT}
    if all(target.masks is not None for target in targets):
        fields["masks"] = np.concatenate([target.masks for target in targets])
    semantic = None
    if all(target.semantic is not None for target in targets):
        semantic = np.full(first.size, ignore_of(first.semantic), first.semantic.dtype)
        for target, (x0, y0, x1, y1) in zip(targets, regions):
            semantic[y0:y1, x0:x1] = target.semantic[y0:y1, x0:x1]
    return Target(**fields, semantic=semantic, image_id=first.image_id, size=first.size)


def ignore_of(semantic: np.ndarray) -> int:
    """The label that means "ignore" in a semantic map, or layers, of this type: 255 in bytes, else -1."""
    return 255 if semantic.dtype == np.uint8 else -1


def place(target: Target, window: Window, size: tuple[int, int], *, rule: Visibility | None) -> Target:
    """`target` after its image's `window` has been put on a canvas of `size` = (height, width).

    Boxes are scaled and clipped to the destination; objects that `rule` does not keep are dropped (None: all stay).
    An object that the crop cuts gets the tight box and the area of what is left of its mask, where it has one.
    """
    scale = window.scale
    whole = target.boxes * np.array(scale * 2) + np.array(window.offset * 2)  # float64
    x0, y0, x1, y1 = window.destination
    clipped = np.minimum(np.maximum(whole, (x0, y0, x0, y0)), (x1, y1, x1, y1))
    seen = box_areas(clipped) / np.maximum(box_areas(whole), 1e-12)
    fields = {name: getattr(target, name) for name in ("labels", "crowd", "difficult", "area", "masks")}
    if rule is not None:
        keep = rule.keeps(clipped, seen, target.crowd)
        if not keep.all():
            fields = {name: None if value is None else value[keep] for name, value in fields.items()}
            clipped, seen = clipped[keep], seen[keep]
    fields["area"] = fields["area"] * (scale[0] * scale[1] * seen)
    if target.masks is not None:
        fields["masks"] = _place_masks(fields["masks"], window, size)
    semantic = None if target.semantic is None else _place_semantic(target.semantic, window, size)
    placed = Target(clipped, **fields, semantic=semantic, image_id=target.image_id, size=tuple(size))
    return placed if target.masks is None or rule is None else refit(placed, seen < 1, rule)


def refit(target: Target, changed: np.ndarray, rule: Visibility) -> Target:
    """`target` whose `changed` (N,) objects get the tight box and the area of their mask; empty masks are dropped."""
    if not changed.any():
        return target
    rows = np.flatnonzero(changed)
    boxes, area = target.boxes.copy(), target.area.copy()
    boxes[rows], area[rows] = mask_boxes(target.masks[rows]), target.masks[rows].sum((1, 2))
    sides = boxes[:, 2:] - boxes[:, :2]
    keep = ~changed | ((area > 0) & (sides >= rule.side).all(1))
    changed_target = dataclasses.replace(target, boxes=boxes, area=area)
    return changed_target if keep.all() else changed_target.select(keep)


def mask_boxes(masks: np.ndarray) -> np.ndarray:
    """The tight boxes (N, 4) float32 of masks (N, H, W) bool: outer pixel edges; zeros where a mask is empty."""
    boxes = np.zeros((len(masks), 4), np.float32)
    for row, mask in enumerate(masks):
        left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
        boxes[row] = left, top, left + width, top + height
    return boxes


def box_areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _place_semantic(semantic: np.ndarray, window: Window, size: tuple[int, int]) -> np.ndarray:
    """The nearest label of each canvas pixel, "ignore" outside of the window."""
    (left, top, right, bottom), (x0, y0, x1, y1) = window.source, window.destination
    part = semantic[top:bottom, left:right]
    if part.shape != (y1 - y0, x1 - x0):
        part = cv2.resize(part, (x1 - x0, y1 - y0), interpolation=cv2.INTER_NEAREST_EXACT)
    if part.shape == tuple(size):
        return part
    canvas = np.full(size, ignore_of(semantic), semantic.dtype)
    canvas[y0:y1, x0:x1] = part
    return canvas


def _place_masks(masks: np.ndarray, window: Window, size: tuple[int, int]) -> np.ndarray:
    """Masks (N, *size) bool: covered where linear interpolation says more than half, empty outside of the window."""
    (left, top, right, bottom), (x0, y0, x1, y1) = window.source, window.destination
    part = masks[:, top:bottom, left:right]
    if part.shape[1:] != (y1 - y0, x1 - x0):
        shape = (x1 - x0, y1 - y0)
        resized = [cv2.resize(mask.view(np.uint8) * 255, shape, interpolation=cv2.INTER_LINEAR) > 127 for mask in part]
        part = np.stack(resized) if resized else np.zeros((0, *shape[::-1]), bool)
    if part.shape[1:] == tuple(size):
        return part
    canvas = np.zeros((len(masks), *size), bool)
    canvas[:, y0:y1, x0:x1] = part
    return canvas
