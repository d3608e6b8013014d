"""Instance masks as one mask a class, in which classes overlap: what multi-label segmenters learn from."""

from __future__ import annotations

from typing import Any

import numpy as np

from vision.data.dataset import count_labels
from vision.structures import Target, ignore_label

__all__ = ["class_layers", "class_pixels", "learnt_as"]


def class_layers(target: Target, classes: int) -> np.ndarray:
    """(classes, H, W): 1 where an object of the class lies, the ignored label where nothing but a crowd of it does.

    uint8 with 255 = ignore, over 255 classes int16 with -1, as `ClassMap.ignore`. `target` needs its masks; where it
    has a semantic map too, its 255 is a part that nothing is known of (padding).
    """
    ignore = ignore_label(classes)
    layers = np.zeros((classes, *target.size), np.uint8 if ignore == 255 else np.int16)
    for label, mask, crowd in zip(target.labels, target.masks, target.crowd):
        layer = layers[label]
        if crowd:
            layer[mask & (layer == 0)] = ignore
        else:
            layer[mask] = 1
    if target.semantic is not None:
        layers[:, target.semantic == 255] = ignore
    return layers


def class_pixels(dataset: Any, index: int) -> np.ndarray:
    """(C,) int64: the pixels of each class in an image, of its class map or, where there is none, of its instances."""
    count = len(dataset.classes)
    if "semantic" not in dataset.tasks:
        return (class_layers(dataset.target(index, masks=True), count) == 1).sum((1, 2))
    return count_labels(dataset.target(index, semantic=True).semantic, count)


def learnt_as(dataset: Any, task: str) -> str:
    """The kind of annotations that a model which reads `task` finds in the data set: `task` itself, but "semantic" in
    place of "multilabel" where there are class maps."""
    return "semantic" if task == "multilabel" and "semantic" in dataset.tasks else task
