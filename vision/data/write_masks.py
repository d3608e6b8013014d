"""Masks written as files: index PNGs of classes, VOC's pairs of class and object palettes, COCO's panoptic PNGs."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vision.data.dataset import Dataset
from vision.data.pack import CROWD
from vision.data.paint import PaintedMasks
from vision.data.problem import DataError
from vision.data.segment import Segment, decode_segment

if TYPE_CHECKING:
    from vision.data.convert import ImageFiles

__all__ = ["voc_palette", "write_card", "write_coco_semantic", "write_masks", "write_voc_masks"]

IGNORE = 255


def write_masks(dataset: Dataset, split: str, root: Path, images: ImageFiles, losses: Counter) -> None:
    """images/SPLIT/, masks/SPLIT/*.png (value = label, 255 = ignore) and a card with the class names.

    What painting instance masks lost is added to `losses`.
    """
    names = list(dataset.classes.names)
    if len(names) > IGNORE:
        raise DataError(f"{dataset.name}: {len(names)} classes; masks of 8 bits have room for {IGNORE}")
    folder = root / "masks" / split
    folder.mkdir(parents=True)
    for index in range(len(dataset)):
        name = images.place(dataset, index, root / "images" / split)
        _save_png(folder / f"{Path(name).stem}.png", dataset.semantic(index), len(names))
        if isinstance(dataset.class_masks, PaintedMasks):
            overlap = dataset.class_masks.overlap(index)
            if overlap:
                losses["pixel where masks overlap: the smaller object's"] += overlap
            losses["border between objects of a class, and box"] += len(dataset.target(index))
    entry = {"images": f"images/{split}", "masks": f"masks/{split}"}
    write_card(root, dataset, "masks", split, entry, classes=names, values={IGNORE: "ignore"})


def write_coco_semantic(dataset: Dataset, split: str, root: Path, images: ImageFiles, losses: Counter) -> None:
    """images/SPLIT/ and a panoptic file of stuff, a segment for each class of an image: annotations/panoptic_SPLIT.json
    and its PNGs, segment id = label + 1, 0 where the pixels are ignored."""
    from PIL import Image

    folder = root / "annotations" / f"panoptic_{split}"
    folder.mkdir(parents=True)
    ids, names = dataset.classes.ids, dataset.classes.names
    categories = [{"id": category, "name": name, "isthing": 0} for category, name in zip(ids, names)]
    content: dict[str, list] = {"images": [], "annotations": [], "categories": categories}
    for index in range(len(dataset)):
        name = images.place(dataset, index, root / "images" / split)
        labels = dataset.semantic(index).astype(np.int32)
        segments = np.where((labels < 0) | (labels >= len(ids)), 0, labels + 1)
        height, width = labels.shape
        stem = Path(name).stem
        Image.fromarray(np.stack([segments % 256, segments // 256, segments * 0], -1).astype(np.uint8)).save(
            folder / f"{stem}.png"
        )
        found = [_stuff(segments == segment, segment, ids) for segment in np.unique(segments[segments > 0]).tolist()]
        content["images"].append({"id": index + 1, "file_name": name, "height": height, "width": width})
        content["annotations"].append({"image_id": index + 1, "file_name": f"{stem}.png", "segments_info": found})
    (root / "annotations" / f"panoptic_{split}.json").write_text(json.dumps(content), encoding="utf-8")


def _stuff(mask: np.ndarray, segment: int, ids: tuple[int, ...]) -> dict[str, Any]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    left, top = int(columns[0]), int(rows[0])
    box = [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top]
    return {"id": segment, "category_id": ids[segment - 1], "area": int(mask.sum()), "bbox": box, "iscrowd": 0}


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
