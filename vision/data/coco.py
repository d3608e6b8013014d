"""COCO instances JSON (cocodataset.org/#format-data): polygons, compressed and uncompressed RLE, crowds.

Rules. Classes in the order of their ids, which may have gaps · images in the order of the file · an unknown category or
image id, a repeated image id or an object without box and segmentation is an error · a repeated annotation id is
kept, with a warning · a ring of under 3 points is left out, with a warning · a missing area is that of the mask.
"""

from __future__ import annotations

import math
from array import array
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vision.data.card import Card
from vision.data.dataset import Dataset
from vision.data.files import absolute_path, missing_files, read_json
from vision.data.image import image_size
from vision.data.pack import CROWD, DIFFICULT, TRUNCATED, AnnotationsBuilder
from vision.data.problem import DataError, Problem
from vision.data.segment import compressed_counts, segment_area, segment_box
from vision.structures import ClassMap

__all__ = ["check_structure", "coco_classes", "find_images", "read_coco"]

# `difficult` and `truncated` are no COCO keys; our own files keep them for the way back to VOC
FLAGS = {"iscrowd": CROWD, "difficult": DIFFICULT, "truncated": TRUNCATED}


def read_coco(card: Card, split: str, task: str | None = None) -> Dataset:
    """The split as a Dataset: of its instances file, or of its panoptic file when the task needs that.

    The caller decides what to do about `problems` of severity "error".
    """
    entry = card.splits[split]
    if "panoptic" in entry and (task in ("semantic", "panoptic") or "annotations" not in entry):
        from vision.data.panoptic import read_panoptic

        path, read = card.entry(split, "panoptic"), read_panoptic
    else:
        path, read = card.entry(split, "annotations"), _read_instances
    if path is None:
        raise DataError(f"{card.file or card.name}: split {split} has neither `annotations` nor `panoptic`")
    try:
        return read(card, split)
    except (AttributeError, KeyError, OverflowError, TypeError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(f"{path}: not built as COCO files are ({what}); mend the file or export it again") from error


def _read_instances(card: Card, split: str) -> Dataset:
    return _InstancesReader(card, split, card.entry(split, "annotations")).read()


def check_structure(path: Path, content: Any) -> None:
    """DataError unless `content` is an object with the lists images and annotations."""
    if not isinstance(content, Mapping):
        raise DataError(f"{path}: {type(content).__name__} at the top; expected a COCO object with images, annotations")
    for key in ("images", "annotations"):
        if not isinstance(content.get(key), list):
            raise DataError(f"{path}: no list {key!r}; expected a COCO file with images, annotations and categories")
    if not content["images"]:
        raise DataError(f"{path}: an empty data set (no images); give a file that describes some")


def coco_classes(path: Path, content: Mapping[str, Any], stated: ClassMap | None) -> ClassMap:
    """The categories of the file by rising id; the classes `stated` by a card when there are some."""
    if stated is not None:
        return stated
    categories = content.get("categories")
    if not categories:
        raise DataError(f"{path}: no categories; expected id and name of every class, in the file or in a card")
    try:
        categories = sorted(categories, key=lambda category: category["id"])
        return ClassMap(
            tuple(category["name"] for category in categories),
            tuple(category["id"] for category in categories),
            tuple(bool(category.get("isthing", 1)) for category in categories),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: categories: {error}; expected one id and one name for each class") from None


def find_images(card: Card, split: str, path: Path, first: str) -> Path:
    """The folder of the images: the card's, else the first usual place where the first image lies."""
    given = card.entry(split, "images")
    if given is not None:
        return given
    subset = path.stem.rpartition("_")[2]
    root = path.parent.parent if path.parent.name == "annotations" else path.parent
    places = [root / "images" / subset, root / subset, root / "images", path.parent, root, root / split]
    found = [place for place in places if (place / first).is_file()]
    if not found:
        looked = ", ".join(str(place) for place in dict.fromkeys(places))
        raise DataError(f"{path}: image {first} does not exist in any of {looked}; put the images into one of them")
    return found[0]


class _InstancesReader:
    def __init__(self, card: Card, split: str, path: Path):
        self.card, self.split, self.path = card, split, path
        self.content = read_json(path)
        check_structure(path, self.content)
        if any("segments_info" in entry for entry in self.content["annotations"][:1]):
            raise DataError(f"{path}: a panoptic file; expected instances (a box and a segmentation an annotation)")
        self.classes = coco_classes(path, self.content, card.classes)
        self.labels = {category: label for label, category in enumerate(self.classes.ids)}
        self.builder = AnnotationsBuilder(lambda image, object_id: (str(path), f"annotation {object_id}"))

    def problem(self, severity: str, where: str, value: str, expected: str) -> None:
        self.builder.problems.append(Problem(severity, str(self.path), where, value, expected))

    def read(self) -> Dataset:
        images = self._images()
        by_image = self._annotations_by_image({image["id"] for image in images})
        folder = find_images(self.card, self.split, self.path, images[0]["file_name"]) if images else Path()
        for image in images:
            path = absolute_path(folder, image["file_name"])
            size = (image["height"], image["width"]) if "height" in image and "width" in image else image_size(path)
            self.builder.add_image(path, image["id"], size)
            for annotation in by_image.get(image["id"], ()):
                self._add(annotation, size)
        annotations = self.builder.finish()
        paths = (annotations.paths[i] for i in range(len(annotations.paths)))
        self.builder.problems += missing_files(paths, "image", str(self.path))
        tasks = annotations.tasks
        return Dataset(self.card.name, self.split, self.classes, tasks, annotations, problems=self.builder.problems)

    def _images(self) -> list[dict[str, Any]]:
        seen: set[Any] = set()
        images = []
        for place, image in enumerate(self.content["images"]):
            if not isinstance(image, dict) or "id" not in image or not isinstance(image.get("file_name"), str):
                self.problem("error", f"images[{place}]", repr(image)[:80], "an id and a file_name")
            elif image["id"] in seen:
                self.problem("error", f"image {image['id']}", "an id that occurs twice", "one image an id")
            else:
                images.append(image)
                seen.add(image["id"])
        return images

    def _annotations_by_image(self, known: set[Any]) -> dict[Any, list[dict[str, Any]]]:
        by_image: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        seen: set[Any] = set()
        for place, annotation in enumerate(self.content["annotations"]):
            if not isinstance(annotation, dict) or not {"image_id", "category_id"} <= set(annotation):
                self.problem("error", f"annotations[{place}]", repr(annotation)[:80], "an image_id and a category_id")
                continue
            where = f"annotation {annotation.setdefault('id', place + 1)}"
            if annotation["id"] in seen:
                self.problem("warning", where, "an id that occurs twice", "one annotation an id; both are kept")
            seen.add(annotation["id"])
            if annotation["image_id"] not in known:
                self.problem("error", where, f"image_id {annotation['image_id']}", "the id of an image of this file")
            elif annotation["category_id"] not in self.labels:
                self._unknown_category(where, annotation["category_id"])
            else:
                by_image[annotation["image_id"]].append(annotation)
        return by_image

    def _unknown_category(self, where: str, category: Any) -> None:
        origin = self.card.file if self.card.classes is not None else "the categories of this file"
        ids = self.classes.ids
        self.problem(
            "error", where, f"category_id {category}", f"one of {len(ids)} ids ({ids[0]}..{ids[-1]}) of {origin}"
        )

    def _add(self, annotation: dict[str, Any], size: tuple[int, int]) -> None:
        where = f"annotation {annotation['id']}"
        try:
            segment = self._segment(annotation.get("segmentation"), where, size)
            area = annotation.get("area")
            if area is not None and not math.isfinite(area := float(area)):
                raise ValueError(f"area {area}")
            if area is None and segment is not None:
                area = segment_area(segment, size)
            self.builder.add_object(
                _box(annotation.get("bbox"), segment, size),
                self.labels[annotation["category_id"]],
                int(annotation["id"]),
                area=area,
                flags=sum(bit for key, bit in FLAGS.items() if _flag(annotation, key)),
                segment=segment,
            )
        except (ValueError, TypeError) as error:
            self.problem("error", where, str(error), "bbox [x, y, width, height] and a COCO segmentation")

    def _segment(self, segmentation: Any, where: str, size: tuple[int, int]) -> bytes | list[array] | None:
        if not segmentation:
            return None
        if isinstance(segmentation, list):
            rings = [_ring(ring) for ring in segmentation]
            whole = [ring for ring in rings if len(ring) >= 6]
            if len(whole) < len(rings):
                few = len(rings) - len(whole)
                self.problem("warning", where, f"{few} ring(s) of under 3 points", "at least 3; the ring is left out")
            return whole or None
        return compressed_counts(segmentation, size)


def _ring(values: Any) -> array:
    try:
        ring = array("d", values)
        if len(ring) % 2 or not math.isfinite(sum(ring)):
            raise ValueError
        return ring
    except (TypeError, ValueError):
        raise ValueError("a polygon that is not a flat list of x, y") from None


def _flag(annotation: Mapping[str, Any], key: str) -> bool:
    value = annotation.get(key)
    if value not in (None, 0, 1):  # True and False among them
        raise ValueError(f"{key} {value!r} where 0 or 1 belongs")
    return bool(value)


def _box(bbox: Any, segment: bytes | list[array] | None, size: tuple[int, int]) -> tuple[float, ...]:
    if bbox is None and segment is not None:
        bbox = segment_box(segment, size)
    if bbox is None:
        raise ValueError("neither bbox nor segmentation")
    left, top, width, height = (float(value) for value in bbox)
    if not math.isfinite(left + top + width + height):
        raise ValueError(f"bbox {bbox}")
    return left, top, left + width, top + height
