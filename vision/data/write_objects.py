"""Objects written in COCO, VOC and YOLO format, one split at a time; `losses` counts what is not expressible."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from vision.data.contour import join_rings, mask_outlines
from vision.data.dataset import Dataset
from vision.data.pack import CROWD, DIFFICULT, TRUNCATED
from vision.data.segment import Segment, decode_segment, encode_mask

if TYPE_CHECKING:
    from vision.data.convert import ImageFiles

__all__ = ["write_coco", "write_voc", "write_yolo"]


def write_coco(dataset: Dataset, split: str, root: Path, images: ImageFiles, losses: Counter) -> None:
    """images/SPLIT/ and annotations/instances_SPLIT.json; ids of images and annotations are kept where they are
    numbers that do not repeat."""
    notes = dataset.annotations
    keep_ids = len(np.unique(notes.object_ids)) == len(notes.object_ids)
    content: dict[str, list] = {"images": [], "annotations": [], "categories": []}
    for index in range(len(dataset)):
        height, width = dataset.size(index)
        image_id = dataset.image_id(index) if isinstance(dataset.image_id(index), int) else index + 1
        name = images.place(dataset, index, root / "images" / split)
        content["images"].append({"id": image_id, "file_name": name, "height": height, "width": width})
        for row, segment in _objects(dataset, index):
            entry = _coco_annotation(dataset, row, segment, (height, width))
            entry["id"] = int(notes.object_ids[row]) if keep_ids else len(content["annotations"]) + 1
            content["annotations"].append({**entry, "image_id": image_id})
    content["categories"] = [
        {"id": category, "name": name} for category, name in zip(dataset.classes.ids, dataset.classes.names)
    ]
    path = root / "annotations" / f"instances_{split}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def _coco_annotation(dataset: Dataset, row: int, segment: Segment | None, size: tuple[int, int]) -> dict[str, Any]:
    notes = dataset.annotations
    left, top, right, bottom = notes.boxes[row].tolist()
    flags = int(notes.flags[row])
    entry: dict[str, Any] = {
        "category_id": dataset.classes.ids[notes.labels[row]],
        "bbox": [round(value, 6) for value in (left, top, right - left, bottom - top)],
        "area": float(notes.area[row]),
        "iscrowd": int(flags & CROWD > 0),
    }
    entry |= {key: 1 for key, bit in (("difficult", DIFFICULT), ("truncated", TRUNCATED)) if flags & bit}
    if isinstance(segment, bytes):
        entry["segmentation"] = {"size": list(size), "counts": segment.decode("ascii")}
    elif segment is not None:
        entry["segmentation"] = [ring.tolist() for ring in segment]
    return entry


def write_yolo(dataset: Dataset, split: str, root: Path, images: ImageFiles, losses: Counter) -> None:
    """images/SPLIT/, labels/SPLIT/*.txt and data.yaml; instance masks as one polygon each, else boxes."""
    labels = root / "labels" / split
    labels.mkdir(parents=True)
    notes = dataset.annotations
    for index in range(len(dataset)):
        name = images.place(dataset, index, root / "images" / split)
        lines = []
        for row, segment in _objects(dataset, index):
            if notes.flags[row] & CROWD:
                losses["crowd, which YOLO cannot express: left out"] += 1
                continue
            for flag, bit in (("difficult", DIFFICULT), ("truncated", TRUNCATED)):
                losses[f"`{flag}` flag"] += bool(notes.flags[row] & bit)
            line, boxed = _yolo_line(dataset, row, segment, dataset.size(index))
            losses["mask without a pixel: written as its box"] += boxed
            lines.append(line)
        if lines:
            (labels / f"{Path(name).stem}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for flag in [what for what, count in losses.items() if not count]:
        del losses[flag]
    _write_data_yaml(dataset, split, root)


def _yolo_line(dataset: Dataset, row: int, segment: Segment | None, size: tuple[int, int]) -> tuple[str, bool]:
    """The line of an object, and whether it is a box though the object has a segment."""
    notes, scale = dataset.annotations, np.array(size[::-1], np.float64)
    rings: list[np.ndarray] = []
    if segment is not None:
        whole = not isinstance(segment, bytes) and len(segment) == 1
        rings = [segment[0].reshape(-1, 2)] if whole else mask_outlines(decode_segment(segment, size))
    if rings:
        values = (join_rings(rings) / scale).ravel()
    else:
        corners = notes.boxes[row].reshape(2, 2)
        values = np.concatenate([corners.mean(0) / scale, (corners[1] - corners[0]) / scale])
    line = " ".join([str(int(notes.labels[row])), *(f"{value:.6f}" for value in values)])
    return line, segment is not None and not rings


def _write_data_yaml(dataset: Dataset, split: str, root: Path) -> None:
    import yaml

    path = root / "data.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {"path": "."}
    content |= {split: f"images/{split}", "names": dict(enumerate(dataset.classes.names))}
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")


def write_voc(dataset: Dataset, split: str, root: Path, images: ImageFiles, losses: Counter) -> None:
    """JPEGImages/, Annotations/*.xml, ImageSets/Main/SPLIT.txt, a card with the classes; and for instance masks
    SegmentationObject/, SegmentationClass/ and ImageSets/Segmentation/SPLIT.txt."""
    from vision.data.write_masks import write_card, write_voc_masks

    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    stems = []
    for index in range(len(dataset)):
        name = images.place(dataset, index, root / "JPEGImages")
        stems.append(Path(name).stem)
        objects = list(_objects(dataset, index))
        xml = _voc_xml(dataset, index, name, [row for row, _ in objects], losses)
        ElementTree.ElementTree(xml).write(root / "Annotations" / f"{stems[-1]}.xml", encoding="utf-8")
        if "instance" in dataset.tasks:
            write_voc_masks(dataset, index, root, stems[-1], objects, losses)
    folders = ["Main", "Segmentation"] if "instance" in dataset.tasks else ["Main"]
    for folder in folders:
        (root / "ImageSets" / folder).mkdir(exist_ok=True)
        (root / "ImageSets" / folder / f"{split}.txt").write_text("\n".join(stems) + "\n", encoding="utf-8")
    keys = ["list", "segmentation_list"][: len(folders)]
    entry = {key: f"ImageSets/{folder}/{split}.txt" for key, folder in zip(keys, folders)}
    write_card(root, dataset, "voc", split, entry, classes=list(dataset.classes.names))


def _voc_xml(dataset: Dataset, index: int, name: str, rows: list[int], losses: Counter) -> ElementTree.Element:
    height, width = dataset.size(index)
    root = ElementTree.Element("annotation")
    _elements(root, {"folder": "JPEGImages", "filename": name})
    _elements(ElementTree.SubElement(root, "size"), {"width": width, "height": height, "depth": 3})
    _elements(root, {"segmented": int("instance" in dataset.tasks)})
    for row in rows:
        flags, box = dataset.annotations.flags[row], dataset.annotations.boxes[row]
        whole = np.rint(box).astype(int)
        losses["box rounded to whole pixels"] += int(np.abs(whole - box).max() > 1e-3)
        losses["crowd, written as `difficult`"] += int(flags & CROWD > 0)
        losses["box of one pixel or less, which VOC readers take for degenerate"] += int(
            (whole[2:] - whole[:2] < 2).any()
        )
        entry = ElementTree.SubElement(root, "object")
        label = dataset.annotations.labels[row]
        difficult, truncated = int(flags & (DIFFICULT | CROWD) > 0), int(flags & TRUNCATED > 0)
        _elements(entry, {"name": dataset.classes.names[label], "truncated": truncated, "difficult": difficult})
        corners = {"xmin": whole[0] + 1, "ymin": whole[1] + 1, "xmax": whole[2], "ymax": whole[3]}
        _elements(ElementTree.SubElement(entry, "bndbox"), corners)
    for what in [what for what, count in losses.items() if not count]:
        del losses[what]
    return root


def _elements(parent: ElementTree.Element, content: dict[str, Any]) -> None:
    for key, value in content.items():
        ElementTree.SubElement(parent, key).text = str(value)


def _objects(dataset: Dataset, index: int) -> Iterator[tuple[int, Segment | None]]:
    """Row and segment of each object that is part of the target; None for all where there are no instance masks."""
    rows = dataset.target_rows(index)
    if "instance" not in dataset.tasks:
        yield from ((int(row), None) for row in rows)
    elif dataset.segment_masks is not None:
        for row, mask in zip(rows, dataset.target(index, masks=True).masks):
            yield int(row), encode_mask(mask)
    else:
        yield from ((int(row), dataset.annotations.segment(row)) for row in rows)
