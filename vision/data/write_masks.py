"""Masks written as files: index PNGs of classes, and VOC's pairs of class and object palettes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vision.data.dataset import Dataset
from vision.data.pack import CROWD
from vision.data.problem import DataError
from vision.data.segment import Segment, decode_segment

if TYPE_CHECKING:
    from vision.data.convert import ImageFiles

__all__ = ["voc_palette", "write_card", "write_masks", "write_voc_masks"]

IGNORE = 255


def write_masks(dataset: Dataset, split: str, root: Path, images: ImageFiles, losses: Counter) -> None:
    """images/SPLIT/, masks/SPLIT/*.png (value = label, 255 = ignore) and a card with the class names.

    Instance masks are painted in their order on a class "background" of value 0.
    """
    painted = "semantic" not in dataset.tasks
    names = [*(["background"] if painted else []), *dataset.classes.names]
    if len(names) > IGNORE:
        raise DataError(f"{dataset.name}: {len(names)} classes; masks of 8 bits have room for {IGNORE}")
    folder = root / "masks" / split
    folder.mkdir(parents=True)
    for index in range(len(dataset)):
        name = images.place(dataset.image_path(index), root / "images" / split)
        labels = _painted(dataset, index, losses) if painted else dataset.semantic(index)
        _save_png(folder / f"{Path(name).stem}.png", labels, len(names))
    entry = {"images": f"images/{split}", "masks": f"masks/{split}"}
    write_card(root, dataset, "masks", split, entry, classes=names, values={IGNORE: "ignore"})


def _painted(dataset: Dataset, index: int, losses: Counter) -> np.ndarray:
    target = dataset.target(index, masks=True)
    labels = np.zeros(target.size, np.uint8)
    for mask, label, crowd in zip(target.masks, target.labels, target.crowd):
        labels[mask] = IGNORE if crowd else label + 1
    overlap = int((target.masks.sum(0) > 1).sum())
    if overlap:
        losses["pixel where masks overlap: the later object's"] += overlap
    losses["border between objects of a class, and box"] += len(target)
    return labels


def write_voc_masks(
    dataset: Dataset, index: int, root: Path, stem: str, objects: list[tuple[int, Segment | None]], losses: Counter
) -> None:
    """SegmentationObject (1, 2, ... in the order of the objects) and SegmentationClass (label + 1); crowds are 255."""
    size, notes = dataset.size(index), dataset.annotations
    classes, instances, covered = (np.zeros(size, np.uint8) for _ in range(3))
    for number, (row, segment) in enumerate(objects, 1):
        mask = decode_segment(segment, size)
        label = int(notes.labels[row]) + 1
        if number >= IGNORE or label >= IGNORE:
            losses[f"instance mask beyond {IGNORE - 1} objects of an image or {IGNORE - 1} classes"] += 1
            continue
        if (covered & mask).any():
            losses["pixel where masks overlap: the later object's"] += int((covered & mask).sum())
        covered |= mask
        crowd = bool(notes.flags[row] & CROWD)
        instances[mask] = IGNORE if crowd else number
        classes[mask] = IGNORE if crowd else label
    for folder, values in (("SegmentationClass", classes), ("SegmentationObject", instances)):
        (root / folder).mkdir(exist_ok=True)
        _save_png(root / folder / f"{stem}.png", values, 256)


def voc_palette() -> np.ndarray:
    """The colours (256, 3) uint8 of VOC: bits 0, 3, 6 of an index are the high bits of red, 1, 4, 7 of green, ..."""
    index = np.arange(256)
    colours = np.zeros((256, 3), int)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((index >> (3 * bit + channel)) & 1) << (7 - bit)
    return colours.astype(np.uint8)


def write_card(root: Path, dataset: Dataset, form: str, split: str, entry: dict[str, str], **meaning: Any) -> None:
    """Adds a split to card.yaml in `root`, so that the folder is read back with the same classes."""
    import yaml

    path = root / "card.yaml"
    content = {"name": dataset.name, "format": form, "splits": {}}
    if path.exists():
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    content["splits"][split] = entry
    path.write_text(yaml.safe_dump(content | meaning, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _save_png(path: Path, values: np.ndarray, count: int) -> None:
    """An 8-bit palette PNG: the values are the indices, the colours VOC's."""
    from PIL import Image

    if values.dtype != np.uint8:
        raise DataError(f"{path.name}: {count} classes; masks of 8 bits have room for {IGNORE}")
    image = Image.fromarray(values)
    image.putpalette(voc_palette().tobytes())
    image.save(path)
