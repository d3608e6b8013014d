"""Pixels by true and predicted class."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vision.ops.histogram import count_values

__all__ = ["check_label_maps", "check_labels", "confusion_matrix", "is_ignored"]

_AT_ONCE = 1 << 19  # pixels; also keeps OpenCV's float32 counts exact


def confusion_matrix(predicted: Tensor, truth: Tensor, classes: int, ignore: int = 255) -> Tensor:
    """Pixels by true class (row) and predicted class (column): int64 (C, C + 1), on the device of `truth`.

    predicted, truth of equal shape, any integer type. Pixels whose truth is `ignore` are not counted. The last column
    takes predictions that are no class (`ignore` too, whatever its number): wrong, whatever the truth. A truth outside
    the classes that is not `ignore` counts nowhere either. No sorting, no boolean indexing, no wait for the device.
    """
    if predicted.shape != truth.shape:
        raise ValueError(f"confusion_matrix: predicted {tuple(predicted.shape)} but truth {tuple(truth.shape)}")
    on_host = truth.device.type == "cpu" and classes < 255
    for labels in (predicted, truth):
        _check_integers("confusion_matrix", labels)
    counts = (_counts_on_host if on_host else _counts_by_codes)(predicted, truth, classes)
    if 0 <= ignore < classes:
        counts[ignore] = 0
        counts[:, -1] += counts[:, ignore]
        counts[:, ignore] = 0
    return counts


def is_ignored(labels: Tensor, ignore: int) -> Tensor:
    """bool, where labels are `ignore`: never of a value that their type has not (PyTorch takes -1 for 255 in bytes)."""
    narrow = labels.dtype in (torch.bool, torch.uint8)
    return torch.zeros_like(labels, dtype=torch.bool) if narrow and not 0 <= ignore <= 255 else labels == ignore


def check_labels(function: str, labels: Tensor, classes: int) -> None:
    """ValueError for labels (N,) that are no integers and, when they are on the host, outside of 0..classes - 1: a GPU
    would have to be waited for."""
    if not len(labels):
        return
    _check_integers(function, labels)
    if labels.device.type != "cpu":
        return
    lowest, highest = labels.numpy().min(), labels.numpy().max()
    if not 0 <= lowest <= highest < classes:
        raise ValueError(f"{function}: labels from {lowest} to {highest}; expected 0 to {classes - 1}")


def check_label_maps(function: str, predicted: Tensor, truth: Tensor, classes: int, ignore: int) -> None:
    """ValueError for maps that are no integers and, on the host, for a truth that is neither a class nor `ignore`.

    With `ignore` below 0, which a map of bytes cannot have, all other labels of the truth are no class, and no error.
    """
    for labels in (predicted, truth):
        _check_integers(function, labels)
    if ignore >= 0 and truth.device.type == "cpu":
        check_labels(function, truth[~is_ignored(truth, ignore)], classes)


def _check_integers(function: str, labels: Tensor) -> None:
    if labels.is_floating_point():
        raise ValueError(f"{function}: {labels.dtype} labels; expected integers: argmax or round scores first")


def _counts_by_codes(predicted: Tensor, truth: Tensor, classes: int) -> Tensor:
    side = classes + 1  # one more for what is no class
    codes = _narrow(truth, classes).mul_(side).add_(_narrow(predicted, classes))
    return count_values(codes, side * side).view(side, side)[:-1]


def _narrow(labels: Tensor, classes: int) -> Tensor:
    """A copy of the labels, those outside of the classes as `classes`, in the smallest type that holds the codes."""
    small = torch.int16 if (classes + 1) ** 2 < 2**15 else torch.int32
    if labels.dtype in (torch.int32, torch.int64):  # any other loses nothing when it is widened
        labels = labels.clamp(-1, classes)
    narrowed = labels.to(small, copy=True).clamp_(max=classes)
    return narrowed if labels.dtype == torch.uint8 else narrowed.masked_fill_(narrowed < 0, classes)


def _counts_on_host(predicted: Tensor, truth: Tensor, classes: int) -> Tensor:
    """The same counts by OpenCV's joint histogram of bytes, which needs no codes; bytes are read where they lie."""
    import cv2

    counts = np.zeros((classes, 256), np.float64)
    sides = _unsigned(truth), _unsigned(predicted)
    for begin in range(0, truth.numel(), _AT_ONCE):
        pair = [_as_bytes(values[begin : begin + _AT_ONCE], classes) for values in sides]
        counts += cv2.calcHist(pair, [0, 1], None, [classes, 256], [0, classes, 0, 256])  # another truth counts nowhere
    counts[:, classes] = counts[:, classes:].sum(1)
    return torch.from_numpy(counts[:, : classes + 1].astype(np.int64))


def _as_bytes(values: np.ndarray, classes: int) -> np.ndarray:
    if values.dtype == np.uint8:
        return values
    if values.max(initial=0) < 256:  # nearly always, and twice as fast: the histogram itself tells what is no class
        return values.astype(np.uint8)
    # numpy clamps and narrows in one pass, where torch would write the clamped values out wide in between
    return np.minimum(values, values.dtype.type(classes), out=np.empty(len(values), np.uint8), casting="unsafe")


def _unsigned(labels: Tensor) -> np.ndarray:
    """The labels (N,) as unsigned numbers, of which the negative ones are the largest."""
    values = labels.flatten().numpy()
    if values.dtype in (np.int8, np.bool_):
        values = values.astype(np.int16)
    return values.view(f"u{values.itemsize}")
