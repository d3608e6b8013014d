"""Tiny data sets, written into a folder by hand, for the tests of the readers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

__all__ = ["coco_content", "coco_folder", "mask_folder", "save_image", "voc_folder", "voc_xml", "yolo_folder"]


def save_image(path: Path, size: tuple[int, int] = (20, 30), **options) -> Path:
    """A random RGB image of size (height, width)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def coco_content() -> dict:
    """Two images of 20x30 (the second without objects), ids with gaps: a polygon, both forms of RLE and a crowd."""
    square = {"size": [20, 30], "counts": [45, 2, 18, 2, 533]}  # columns 2, 3 and rows 5, 6
    return {
        "images": [
            {"id": 7, "file_name": "a.png", "height": 20, "width": 30},
            {"id": 9, "file_name": "b.png", "height": 20, "width": 30},
        ],
        "categories": [{"id": 90, "name": "dog"}, {"id": 3, "name": "cat"}],
        "annotations": [
            {"id": 11, "image_id": 7, "category_id": 3, "bbox": [4, 5, 10, 6], "area": 60, "iscrowd": 0,
             "segmentation": [[4, 5, 14, 5, 14, 11, 4, 11]]},
            {"id": 12, "image_id": 7, "category_id": 90, "bbox": [2, 5, 2, 2], "area": 4, "iscrowd": 1,
             "segmentation": square},
        ],
    }  # fmt: skip


def coco_folder(root: Path, content: dict | None = None, split: str = "train") -> Path:
    """annotations/instances_SPLIT.json and images/SPLIT/; returns the JSON's path."""
    content = coco_content() if content is None else content
    path = root / "annotations" / f"instances_{split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    for image in content["images"]:
        save_image(root / "images" / split / image["file_name"], (20, 30))
    return path


def voc_xml(objects: list[tuple], size: tuple[int, int] = (20, 30)) -> str:
    """objects: (name, xmin, ymin, xmax, ymax[, difficult])."""
    parts = [f"<size><width>{size[1]}</width><height>{size[0]}</height><depth>3</depth></size>"]
    for name, left, top, right, bottom, *difficult in objects:
        box = f"<xmin>{left}</xmin><ymin>{top}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax>"
        flags = f"<truncated>1</truncated><difficult>{int(bool(difficult and difficult[0]))}</difficult>"
        parts.append(f"<object><name>{name}</name>{flags}<bndbox>{box}</bndbox></object>")
    return f"<annotation>{''.join(parts)}</annotation>"


def voc_folder(root: Path, images: dict[str, list[tuple]], split: str = "train") -> Path:
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for stem, objects in images.items():
        save_image(root / "JPEGImages" / f"{stem}.jpg")
        (root / "Annotations" / f"{stem}.xml").write_text(voc_xml(objects))
    (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(images) + "\n")
    return root


def yolo_folder(root: Path, labels: dict[str, str | None], split: str = "train") -> Path:
    """images/SPLIT/NAME.png with labels/SPLIT/NAME.txt (None: no label file), and data.yaml; returns its path."""
    for stem, text in labels.items():
        save_image(root / "images" / split / f"{stem}.png")
        if text is not None:
            path = root / "labels" / split / f"{stem}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    path = root / "data.yaml"
    path.write_text(f"path: .\n{split}: images/{split}\nnames: [cat, dog]\n")
    return path


def mask_folder(root: Path, masks: dict[str, np.ndarray], classes: list[str] | None = None, split: str = "") -> Path:
    """images/[SPLIT/]NAME.png, masks/[SPLIT/]NAME.png and, for given classes, classes.txt."""
    for stem, mask in masks.items():
        save_image(root / "images" / split / f"{stem}.png", mask.shape[:2])
        path = root / "masks" / split / f"{stem}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(path)
    if classes:
        (root / "classes.txt").write_text("\n".join(classes) + "\n")
    return root
