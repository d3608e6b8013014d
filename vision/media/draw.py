"""Predictions drawn on images: boxes, instance masks, labels, class overlays and their legend.

Line width and letter size follow the image, so that labels can be read at any size.
"""

from __future__ import annotations

import colorsys
import functools
import itertools
from collections.abc import Sequence

import cv2
import numpy as np

from vision.structures import ClassMap, Detections, Segmentation

__all__ = ["class_colours", "draw_detections", "draw_segmentation"]

FONT = cv2.FONT_HERSHEY_SIMPLEX


@functools.cache
def class_colours(count: int) -> np.ndarray:
    """`count` distinct RGB colours, uint8 (count, 3), the first ones the same for any count: from red on, each the one
    of 720 that is farthest, in CIELAB, from all before it. Beyond 720 they come again."""
    shades = itertools.product(np.arange(48) / 48, (0.3, 0.4, 0.5, 0.6, 0.7), (0.55, 0.8, 1.0))
    known = np.array([colorsys.hls_to_rgb(*shade) for shade in shades], np.float32)
    places = cv2.cvtColor(known[None], cv2.COLOR_RGB2LAB)[0]
    chosen = [int(np.abs(known - (0.9, 0.2, 0.1)).sum(1).argmin())]
    nearest = np.full(len(known), np.inf)
    while len(chosen) < min(count, len(known)):
        nearest = np.minimum(nearest, np.linalg.norm(places - places[chosen[-1]], axis=1))
        chosen.append(int(nearest.argmax()))
    colours = np.round(255 * known[chosen]).astype(np.uint8)
    colours = np.resize(colours, (count, 3))
    colours.flags.writeable = False
    return colours


def _letters(height: int, width: int) -> tuple[int, float, int]:
    """Line width, font scale and font thickness for an image of that size."""
    side = min(height, width)
    return max(1, round(side / 300)), max(0.35, side / 1200), max(1, round(side / 700))


def _ink(colour: Sequence[int]) -> tuple[int, int, int]:
    """Black or white, whichever is easier to read on `colour`."""
    return (0, 0, 0) if float(np.dot(colour, (0.299, 0.587, 0.114))) > 140 else (255, 255, 255)


def _plate(image: np.ndarray, text: str, box: Sequence[int], taken: list[tuple[int, ...]]) -> tuple[int, int, int, int]:
    """Where the name of `box` (x1, y1, x2, y2) stands, as such a box: above it, or below its upper edge where the image
    ends or a plate of `taken` is; where all places down to its lower edge are taken, above it all the same."""
    height, width = image.shape[:2]
    _, scale, thickness = _letters(height, width)
    (across, up), below = cv2.getTextSize(text, FONT, scale, thickness)
    tall, wide = up + below + 2, across + 3
    x = max(0, min(box[0], width - wide))
    tops = [box[1] - tall, *range(box[1], max(box[1], box[3] - tall) + 1, tall), box[3]]
    places = [(x, top, x + wide, top + tall) for top in tops if 0 <= top <= height - tall]
    free = [place for place in places if not any(_overlap(place, other) for other in taken)]
    top = max(0, min(tops[0], height - tall))
    return next(iter([*free, *places]), (x, top, x + wide, top + tall))


def _overlap(one: Sequence[int], other: Sequence[int]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _label(image: np.ndarray, text: str, plate: Sequence[int], colour: list[int]) -> None:
    """Writes `text` on `plate` (x1, y1, x2, y2) of `colour`."""
    _, scale, thickness = _letters(*image.shape[:2])
    (_, up), _ = cv2.getTextSize(text, FONT, scale, thickness)
    left, top, right, bottom = plate
    cv2.rectangle(image, (left, top), (right - 1, bottom - 1), colour, cv2.FILLED)
    cv2.putText(image, text, (left + 1, top + up + 1), FONT, scale, _ink(colour), thickness, cv2.LINE_AA)


def draw_detections(
    image: np.ndarray, detections: Detections, classes: ClassMap, *, score_threshold: float = 0.0, opacity: float = 0.45
) -> np.ndarray:
    """A copy of `image` (RGB uint8 (H, W, 3)) with masks, boxes, names and scores; the best score lies on top."""
    drawn = np.ascontiguousarray(image.copy())
    line, _, _ = _letters(*drawn.shape[:2])
    colours = class_colours(len(classes))
    scores, labels = detections.scores.float().cpu().numpy(), detections.labels.cpu().numpy()
    boxes = np.round(detections.boxes.float().cpu().numpy()).astype(int)
    kept = [i for i in range(len(scores)) if scores[i] >= score_threshold]
    if detections.masks is not None:
        masks = detections.masks.cpu().numpy().astype(bool)
        for i in reversed(kept):
            colour = colours[labels[i]].astype(np.float32)
            drawn[masks[i]] = ((1 - opacity) * drawn[masks[i]] + opacity * colour).astype(np.uint8)
            # a line around each tells apart those of one class
            outlines, _ = cv2.findContours(masks[i].view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(drawn, outlines, -1, colours[labels[i]].tolist(), line, cv2.LINE_AA)
    for i in reversed(kept):
        x1, y1, x2, y2 = boxes[i].tolist()
        cv2.rectangle(
            drawn, (x1, y1), (max(x1, x2 - 1), max(y1, y2 - 1)), colours[labels[i]].tolist(), line, cv2.LINE_AA
        )
    texts, plates = {}, {}
    for i in kept:  # the best choose their places first
        texts[i] = f"{classes.names[labels[i]]} {scores[i]:.2f}"
        if detections.track_ids is not None:
            texts[i] = f"#{int(detections.track_ids[i])} {texts[i]}"
        plates[i] = _plate(drawn, texts[i], boxes[i].tolist(), list(plates.values()))
    for i in reversed(kept):
        _label(drawn, texts[i], plates[i], colours[labels[i]].tolist())
    return drawn


def draw_segmentation(
    image: np.ndarray, segmentation: Segmentation, classes: ClassMap, *, opacity: float = 0.5, legend: bool = True
) -> np.ndarray:
    """A copy of `image` (RGB uint8 (H, W, 3)) under the colours of its classes, with a legend of those present.

    A class named "background" is left as it is, pixels of no class are darkened. Where classes may overlap and their
    scores are there, the colours of those that do are mixed, and what has none is left as it is.
    """
    palette = np.zeros((len(classes) + 1, 3), np.uint8)  # the last one: of no class
    palette[:-1] = class_colours(len(classes))
    mixed = segmentation.scores is not None and segmentation.rule.overlapping
    overlay, bare, shares = (_mixed if mixed else _exclusive)(segmentation, classes, palette)
    drawn = cv2.addWeighted(np.ascontiguousarray(image), 1 - opacity, overlay, opacity, 0)
    drawn[bare] = image[bare]
    if legend:
        _legend(drawn, shares, classes, palette)
    return drawn


def _exclusive(
    segmentation: Segmentation, classes: ClassMap, palette: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The colour of each pixel's class, which pixels are bare (H, W), and how many pixels each class has (C,)."""
    labels = segmentation.labels.cpu().numpy()
    labels = np.where((labels >= 0) & (labels < len(classes)), labels, len(classes))
    background = np.array([*(name == "background" for name in classes.names), False])
    shares = np.bincount(labels.ravel(), minlength=len(classes) + 1) * ~background
    return palette[labels], background[labels], shares[:-1]


def _mixed(
    segmentation: Segmentation, classes: ClassMap, palette: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `_exclusive`, with the mean colour of all classes that a pixel has."""
    layers = segmentation.layers.cpu().numpy()
    count = layers.sum(0)
    overlay = np.empty((*count.shape, 3), np.uint8)
    for channel in range(3):
        total = np.zeros(count.shape, np.float32)
        for layer, value in zip(layers, palette[:, channel]):
            total += layer * np.float32(value)
        overlay[..., channel] = np.round(total / np.maximum(count, 1))
    return overlay, count == 0, layers.sum((1, 2))


def _legend(image: np.ndarray, shares: np.ndarray, classes: ClassMap, palette: np.ndarray) -> None:
    """Names of the classes with a share (C,) in their colours, down the left edge: in the classes' own order, so that
    a video's legend stands still; the largest where not all fit."""
    _, scale, thickness = _letters(*image.shape[:2])
    (_, up), below = cv2.getTextSize(classes.names[0], FONT, scale, thickness)  # the same height for any text
    rows = (image.shape[0] - 2) // (up + below + 3)
    largest = np.argsort(-shares, kind="stable")[:rows]
    for row, label in enumerate(sorted(largest[shares[largest] > 0].tolist())):
        top, colour = 2 + row * (up + below + 3), palette[label].tolist()
        across = cv2.getTextSize(classes.names[label], FONT, scale, thickness)[0][0]
        cv2.rectangle(image, (2, top), (6 + across, top + up + below + 1), colour, cv2.FILLED)
        cv2.putText(image, classes.names[label], (4, top + up + 1), FONT, scale, _ink(colour), thickness, cv2.LINE_AA)
