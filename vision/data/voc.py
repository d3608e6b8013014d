"""Pascal VOC: lists in ImageSets, one XML an image in Annotations, palette PNGs in Segmentation{Class,Object}.

A split without a list (labelImg makes none) has all images that have an XML; an image without one, or an XML without
its image, is left out with a warning.

Rules. Corners are pixels counted from 1, both inclusive: the box is (xmin - 1, ymin - 1, xmax, ymax) · corners that
coincide (xmin = xmax or ymin = ymax) are a degenerate box, which is left out with a warning · an object of an unknown
class is an error · without a card the classes are the names in all XML files, sorted · `difficult` is kept, for losses
and metrics to pass over · in masks 0 is background and 255 (the outline) is ignored; their classes are VOC's own 20.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from vision.data.card import Card
from vision.data.dataset import ClassMasks, Dataset, SegmentMasks
from vision.data.files import absolute_path, images_in, missing_files, read_lines
from vision.data.image import image_size, read_index_mask
from vision.data.pack import DEGENERATE, DIFFICULT, TRUNCATED, AnnotationsBuilder, PackedText
from vision.data.problem import DataError, Problem, as_problem
from vision.structures import ClassMap

__all__ = ["VOC_CLASSES", "VocObject", "has_boxes", "parse_voc_xml", "read_voc"]

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


@dataclass(frozen=True)
class VocObject:
    """One <object>: class name, corners as written (xmin, ymin, xmax, ymax), and its flags."""

    name: str
    corners: tuple[float, float, float, float]
    difficult: bool
    truncated: bool


def read_voc(card: Card, split: str, task: str | None = None) -> Dataset:
    """The split as a Dataset: boxes of the XML files, or for other tasks the masks of its segmentation list."""
    entry = card.splits[split]
    boxes = has_boxes(entry)
    if task in ("semantic", "instance") or (task is None and not boxes):
        if "segmentation_list" not in entry:
            raise DataError(f"{card.file or card.root}: split {split} has no segmentation list, which {task} needs")
        return _read_masks(card, split, instances=task == "instance")
    if not boxes:
        raise DataError(f"{card.file or card.root}: split {split} has no list of boxes; ask for task semantic")
    return _read_boxes(card, split)


def has_boxes(entry: Mapping[str, Any]) -> bool:
    """Whether a split of a card is read for boxes: by its list, or without any list."""
    return "list" in entry or "segmentation_list" not in entry


def parse_voc_xml(path: Path) -> tuple[tuple[int, int] | None, list[VocObject]]:
    """Size (height, width) if the file states one, and its objects. DataError names the file and the element."""
    from defusedxml import ElementTree
    from defusedxml.common import DefusedXmlException

    try:
        root = ElementTree.parse(str(path)).getroot()
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such annotation file; every listed image needs one") from None
    except DefusedXmlException as error:
        kind = type(error).__name__
        raise DataError(f"{path}: refused, it defines entities ({kind}); expected a plain VOC annotation") from None
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # LookupError: of an encoding nobody knows
        raise DataError(f"{path}: not XML ({error}); expected a VOC annotation") from None
    if root.tag != "annotation":
        raise DataError(f"{path}: root element <{root.tag}>; expected <annotation> of Pascal VOC")
    objects = [_parse_object(path, place, element) for place, element in enumerate(root.iter("object"), 1)]
    height, width = (root.findtext(f"size/{side}", "0") for side in ("height", "width"))
    try:
        size = int(float(height)), int(float(width))
    except (OverflowError, ValueError):
        raise DataError(f"{path}: size {width!r} x {height!r}; expected whole pixels") from None
    return (size if min(size) > 0 else None), objects


def _parse_object(path: Path, place: int, element: Any) -> VocObject:
    name = (element.findtext("name") or "").strip()
    texts = [element.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
    try:
        corners = tuple(float(text) for text in texts)
        if not name or not np.isfinite(corners).all():
            raise ValueError
    except (TypeError, ValueError):
        raise DataError(
            f"{path}, object {place}: name {name!r}, bndbox {texts}; "
            "expected a name and the numbers xmin ymin xmax ymax; mend the file"
        ) from None
    flags = ((element.findtext(flag) or "0").strip() == "1" for flag in ("difficult", "truncated"))
    return VocObject(name, corners, *flags)


_COLUMN = re.compile(r"\s+(-1|0|1)$")


class _Layout:
    """Where the files of a split lie; names of images are without suffix, below the folder of the images."""

    def __init__(self, card: Card, split: str):
        self.root = card.root
        self.xml = card.entry(split, "annotations") or self.root / "Annotations"
        self.images = card.entry(split, "images") or self.root / "JPEGImages"
        self.recursive = self.images != self.xml

    @cached_property
    def suffixes(self) -> dict[str, str]:
        """The suffix of each image by its name."""
        found: dict[str, str] = {}
        for path in images_in(self.images, self.recursive) if self.images.is_dir() else ():
            stem, suffix = os.path.splitext(os.path.relpath(path, self.images))
            found.setdefault(stem, suffix)
        return found

    def xml_files(self) -> list[Path]:
        return sorted(self.xml.rglob("*.xml") if self.recursive else self.xml.glob("*.xml"))

    def paired_stems(self) -> tuple[list[str], list[Problem]]:
        """The images that have an XML, and a warning for each image or XML that is alone."""
        stems = {str(path.relative_to(self.xml).with_suffix("")) for path in self.xml_files()}
        problems = [
            Problem("warning", self.image(stem), "", "an image without an XML", "its annotations; it is left out")
            for stem in sorted(self.suffixes.keys() - stems)
        ]
        for stem in sorted(stems - self.suffixes.keys()):
            value, expected = "an annotation without an image", "its image; the file is left out"
            problems.append(Problem("warning", str(self.xml / f"{stem}.xml"), "", value, expected))
        if not stems & self.suffixes.keys():
            raise DataError(f"{self.images}: an empty data set (no image has an XML of its name in {self.xml})")
        return sorted(stems & self.suffixes.keys()), problems

    def stems(self, path: Path) -> list[str]:
        """The image names of a list file. A second column (1, 0, -1 in lists of one class) is not read; names may
        have spaces in them."""
        stems = [line if line in self.suffixes else _COLUMN.sub("", line) for line in read_lines(path)]
        if not stems:
            raise DataError(f"{path}: an empty data set (no image is listed); list some names")
        return stems

    def image(self, stem: str) -> str:
        return absolute_path(self.images, stem + self.suffixes.get(stem, ".jpg"))

    def annotation(self, image: str) -> Path:
        return (self.xml / os.path.relpath(image, self.images)).with_suffix(".xml")


def _classes(card: Card, layout: _Layout) -> ClassMap:
    """The card's, else the names in the XML files of all splits."""
    if card.classes is not None:
        return card.classes
    names: set[str] = set()
    by_folder = {other.xml: other for other in (_Layout(card, split) for split in card.splits)}
    for path in (path for other in by_folder.values() for path in other.xml_files()):
        try:
            names |= {found.name for found in parse_voc_xml(path)[1]}
        except DataError:
            continue  # told by the reader of the split that lists this file
    if not names:
        raise DataError(f"{layout.xml}: no object in any XML file; expected annotations of the listed images")
    return ClassMap(tuple(sorted(names)))


def _read_boxes(card: Card, split: str) -> Dataset:
    layout = _Layout(card, split)
    listed = card.entry(split, "list")
    stems, problems = (layout.stems(listed), []) if listed else layout.paired_stems()
    classes = _classes(card, layout)
    labels = {name: label for label, name in enumerate(classes.names)}
    builder = AnnotationsBuilder(lambda image, place: (str(layout.annotation(image)), f"object {place}"))
    builder.problems += problems
    paths = []
    for stem in stems:
        file = layout.xml / f"{stem}.xml"
        paths.append(layout.image(stem))
        try:
            size, objects = parse_voc_xml(file)
            builder.add_image(paths[-1], stem, size or image_size(paths[-1]))
        except DataError as error:
            builder.problems.append(as_problem(error, str(file), "a VOC XML"))
            continue
        for place, found in enumerate(objects, 1):
            if found.name not in labels:
                where = f"object {place}"
                expected = f"one of {', '.join(classes.names)}"
                builder.problems.append(Problem("error", str(file), where, f"class {found.name!r}", expected))
                continue
            left, top, right, bottom = found.corners
            flags = (DIFFICULT if found.difficult else 0) | (TRUNCATED if found.truncated else 0)
            flags |= DEGENERATE if right <= left or bottom <= top else 0
            builder.add_object((left - 1, top - 1, right, bottom), labels[found.name], place, flags=flags)
    builder.problems += missing_files(paths, "image", str(listed))
    return Dataset(card.name, split, classes, ["detection"], builder.finish(), problems=builder.problems)


def _read_masks(card: Card, split: str, instances: bool) -> Dataset:
    layout = _Layout(card, split)
    names = card.classes.names if card.classes is not None else VOC_CLASSES  # a palette index has no name by itself
    stems = layout.stems(card.entry(split, "segmentation_list"))
    images = [layout.image(stem) for stem in stems]
    class_folder = layout.root / card.splits[split].get("segmentation_masks", "SegmentationClass")
    class_paths = [str(class_folder / f"{stem}.png") for stem in stems]
    object_paths = [str(layout.root / "SegmentationObject" / f"{stem}.png") for stem in stems]
    builder = AnnotationsBuilder(lambda image, value: (image, f"object {value} of SegmentationObject"))
    builder.problems += missing_files(images, "image", str(card.entry(split, "segmentation_list")))
    builder.problems += missing_files(class_paths, "mask", str(card.entry(split, "segmentation_list")))
    missing = bool(builder.problems)
    for stem, image, class_path, object_path in zip(stems, images, class_paths, object_paths):
        builder.add_image(image, stem, (0, 0) if missing else image_size(image))
        for value, label, box, area in _instances(object_path, class_path) if instances and not missing else ():
            if 1 <= label <= len(names):
                builder.add_object(box, label - 1, value, area=area)
                continue
            found = f"class value {label} in {class_path}" if label else f"no class in {class_path}"
            expected = f"a class value of 1 to {len(names)} under the object; mend one of the masks"
            builder.problems.append(Problem("error", object_path, f"object {value}", found, expected))
    if instances:
        masks = SegmentMasks(PackedText(object_paths), panoptic=False)
        tasks, classes, rest = ("detection", "instance"), ClassMap(names), {"segment_masks": masks}
    else:
        table = np.full(256, -2, np.int32)
        table[: len(names) + 1], table[255] = np.arange(len(names) + 1), -1
        classes = ClassMap(("background", *names))
        tasks, rest = ("semantic",), {"class_masks": ClassMasks(PackedText(class_paths), table)}
    return Dataset(card.name, split, classes, tasks, builder.finish(), problems=builder.problems, **rest)


def _instances(object_path: str, class_path: str) -> Iterator[tuple[int, int, tuple[int, ...], int]]:
    """Value, class value, box and pixels of each object that is drawn in SegmentationObject."""
    objects, class_values = read_index_mask(object_path), read_index_mask(class_path)
    if objects.shape != class_values.shape:
        raise DataError(
            f"{object_path}: a mask of shape {objects.shape}; expected {class_values.shape} as {class_path}"
        )
    for value in np.unique(objects):
        if value in (0, 255):
            continue
        rows, columns = np.nonzero(objects == value)
        counts = np.bincount(class_values[rows, columns])
        counts[[0, *range(255, len(counts))]] = 0
        box = (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
        yield int(value), int(counts.argmax()), box, len(rows)
