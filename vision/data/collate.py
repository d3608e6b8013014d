"""Joins samples of the host into one Batch of tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from vision.data.layers import class_layers
from vision.data.placement import ignore_of
from vision.data.resize import Placement
from vision.structures import Batch, Geometry, Sample, Target, Targets

__all__ = ["OBJECT_MULTIPLE", "collate", "collate_targets"]

OBJECT_MULTIPLE = 8  # G is rounded up to this, so that compiled steps meet few different shapes


def collate(
    samples: Sequence[tuple[Sample, Placement]], *, pad: int = 114, with_targets: bool = True, layers: int = 0
) -> Batch:
    """The Batch of samples and their placements.

    Images may differ in size: all are padded with `pad` on the right and bottom to the largest. The images tensor is
    (B, 3, H, W) uint8 in channels_last memory, which costs no transposition here or in the model. `layers` as in
    `collate_targets`.
    """
    if not samples:
        raise ValueError("collate: no samples; a batch needs at least one")
    images = [sample.image for sample, _ in samples]
    height, width = (max(image.shape[side] for image in images) for side in (0, 1))
    stacked = _empty((len(images), height, width, 3), torch.uint8)
    rows = stacked.numpy()
    for row, image in zip(rows, images):
        if image.shape[:2] != (height, width):
            row[image.shape[0] :], row[:, image.shape[1] :] = pad, pad
        row[: image.shape[0], : image.shape[1]] = image
    placements = [placement for _, placement in samples]
    geometry = Geometry(
        torch.tensor([placement.scale for placement in placements]),
        torch.tensor([placement.offset for placement in placements]),
        torch.tensor([placement.source for placement in placements]),
    )
    targets = [sample.target for sample, _ in samples]
    return Batch(
        images=stacked.permute(0, 3, 1, 2),
        sizes=torch.tensor([placement.size for placement in placements]),
        geometry=geometry,
        targets=collate_targets(targets, (height, width), layers) if with_targets else None,
        image_ids=[target.image_id for target in targets],
    )


def collate_targets(targets: Sequence[Target], size: tuple[int, int], layers: int = 0) -> Targets:
    """The padded Targets of a batch whose images are padded to `size` = (height, width).

    Objects without area are left out (there is nothing to match); crowds and `difficult` objects are marked crowd.
    Masks and semantic maps are there when every target has them; semantic padding is "ignore": 255, or -1 where the
    maps are not bytes (more than 255 classes). With a number of classes as `layers`, the semantic map is made of the
    instance masks, a mask a class: (B, layers, H, W), see `class_layers`.
    """
    targets = [_with_area(target) for target in targets]
    count = max(1, *(len(target) for target in targets)) if targets else 1
    count = -(-count // OBJECT_MULTIPLE) * OBJECT_MULTIPLE
    boxes = np.zeros((len(targets), count, 4), np.float32)
    labels = np.full((len(targets), count), -1, np.int64)
    valid, crowd = np.zeros((2, len(targets), count), bool)
    for row, target in enumerate(targets):
        filled = slice(len(target))
        boxes[row, filled], labels[row, filled], valid[row, filled] = target.boxes, target.labels, True
        crowd[row, filled] = target.crowd | target.difficult
    masks = start = None
    if not layers and all(target.masks is not None for target in targets):
        masks, start = _collate_masks([target.masks for target in targets], size)
    semantic = None
    if layers:
        semantic = _collate_layers([class_layers(target, layers) for target in targets], size)
    elif all(target.semantic is not None for target in targets):
        semantic = _collate_semantic([target.semantic for target in targets], size)
    arrays = (torch.from_numpy(array) for array in (boxes, labels, valid, crowd))
    return Targets(*arrays, masks=masks, mask_start=start, semantic=semantic)


def _with_area(target: Target) -> Target:
    sides = target.boxes[:, 2:] - target.boxes[:, :2]
    keep = (sides > 0).all(1)
    return target if keep.all() else target.select(keep)


def _collate_masks(masks: Sequence[np.ndarray], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    counts = np.array([len(image) for image in masks])
    packed = _empty((int(counts.sum()), *size), torch.bool)
    rows, start = packed.numpy(), np.cumsum(counts) - counts
    for first, image in zip(start, masks):
        part = rows[first : first + len(image)]
        if image.shape[1:] != tuple(size):
            part[:] = False
        part[:, : image.shape[1], : image.shape[2]] = image
    return packed, torch.from_numpy(start)


def _collate_semantic(maps: Sequence[np.ndarray], size: tuple[int, int]) -> Tensor:
    ignore = min(ignore_of(image) for image in maps)
    stacked = _empty((len(maps), *size), torch.int64)
    rows = stacked.numpy()
    for row, image in zip(rows, maps):
        if image.shape != tuple(size):
            row[:] = ignore
        row[: image.shape[0], : image.shape[1]] = image
    return stacked


def _collate_layers(images: Sequence[np.ndarray], size: tuple[int, int]) -> Tensor:
    """(B, C, H, W) of the layers' own type: 64-bit labels of every class would be the largest part of a batch."""
    stacked = _empty((len(images), len(images[0]), *size), torch.uint8 if images[0].dtype == np.uint8 else torch.int16)
    rows = stacked.numpy()
    for row, image in zip(rows, images):
        if image.shape[1:] != tuple(size):
            row[:] = ignore_of(image)
        row[:, : image.shape[1], : image.shape[2]] = image
    return stacked


def _empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """An uninitialised tensor; inside a loader's worker in shared memory, so that handing it over copies nothing."""
    tensor = torch.empty(shape, dtype=dtype)
    return tensor.share_memory_() if get_worker_info() is not None else tensor
