"""Instance masks as one mask a class, in which classes overlap: what multi-label segmenters learn from."""

from __future__ import annotations

from typing import Any

import numpy as np

from vision.structures import Target

__all__ = ["class_layers", "class_pixels", "has_layers"]


def class_layers(target: Target, classes: int) -> np.ndarray:
    """(classes, H, W): 1 where an object of the class lies, the ignored label where nothing but a crowd of it does.

    uint8 with 255 = ignore, over 255 classes int16 with -1, as `ClassMap.ignore`. `target` needs its masks.
    """
    ignore, kind = (255, np.uint8) if classes <= 255 else (-1, np.int16)
    layers = np.zeros((classes, *target.size), kind)
    for label, mask, crowd in zip(target.labels, target.masks, target.crowd):
        layer = layers[label]
        if crowd:
            layer[mask & (layer == 0)] = ignore
        else:
            layer[mask] = 1
    return layers


def class_pixels(dataset: Any, index: int) -> np.ndarray:
    """(C,) int64: the pixels of each class in an image, of its class map or, where there is none, of its instances."""
    count = len(dataset.classes)
    if "semantic" not in dataset.tasks:
        return (class_layers(dataset.target(index, masks=True), count) == 1).sum((1, 2))
    labels = dataset.target(index, semantic=True).semantic
    return np.bincount(labels[(labels >= 0) & (labels < count)], minlength=count)


def has_layers(dataset: Any, task: str) -> bool:
    """Whether a model that reads `task` sees the data set as `class_layers`: a multi-label one, where there are
    instance masks and no class maps."""
    return task == "multilabel" and "semantic" not in dataset.tasks
