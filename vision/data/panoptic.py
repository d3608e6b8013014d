"""COCO panoptic: a JSON of segments and one RGB PNG an image, segment id = R + 256 G + 65536 B, 0 = unlabelled.

Things become objects (boxes, instance masks), things and stuff together the semantic map. Rules as in
`vision.data.coco`; an image without an entry in `annotations` has no mask and is left out, with a warning.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vision.data.card import Card
from vision.data.coco import check_structure, coco_classes, find_images
from vision.data.dataset import Dataset, SegmentMasks
from vision.data.files import absolute_path, missing_files, read_json
from vision.data.pack import CROWD, STUFF, AnnotationsBuilder, PackedText
from vision.data.problem import DataError, Problem

__all__ = ["read_panoptic"]


def read_panoptic(card: Card, split: str) -> Dataset:
    """The split of a panoptic file. DataError when it is not one; other faults go to `problems`."""
    path = card.entry(split, "panoptic")
    content = read_json(path)
    check_structure(path, content)
    if not all(isinstance(entry, dict) and "segments_info" in entry for entry in content["annotations"][:1]):
        raise DataError(f"{path}: annotations without segments_info; expected a COCO panoptic file")
    # a card's classes are those of the instances, where it has some
    classes = coco_classes(path, content, None if "annotations" in card.splits[split] else card.classes)
    mask_folder = card.entry(split, "panoptic_masks") or path.with_suffix("")
    builder = AnnotationsBuilder(lambda image, segment: (str(path), f"segment {segment} of {Path(image).name}"))
    entries = {entry["image_id"]: entry for entry in content["annotations"]}
    folder = find_images(card, split, path, content["images"][0]["file_name"])
    labels = {category: label for label, category in enumerate(classes.ids)}
    mask_paths, seen = [], set()
    for image in content["images"]:
        fault = _image_fault(image["id"], seen, entries)
        if fault:
            builder.problems.append(Problem(fault[0], str(path), f"image {image['id']}", *fault[1:]))
            continue
        seen.add(image["id"])
        entry = entries[image["id"]]
        builder.add_image(absolute_path(folder, image["file_name"]), image["id"], (image["height"], image["width"]))
        mask_paths.append(absolute_path(mask_folder, entry["file_name"]))
        for segment in entry["segments_info"]:
            if segment["category_id"] not in labels:
                where = f"segment {segment['id']} of image {image['id']}"
                value = f"category_id {segment['category_id']}"
                builder.problems.append(Problem("error", str(path), where, value, f"one of {list(labels)}"))
                continue
            _add_segment(builder, segment, labels[segment["category_id"]], classes.things)
    annotations = builder.finish()
    masks = PackedText(mask_paths)
    builder.problems += missing_files(mask_paths, "panoptic mask", str(path))
    builder.problems += missing_files((annotations.paths[i] for i in range(len(masks))), "image", str(path))
    tasks = ("detection", "instance", "semantic", "panoptic")
    segments = SegmentMasks(masks, True)
    return Dataset(card.name, split, classes, tasks, annotations, problems=builder.problems, segment_masks=segments)


def _image_fault(image_id: Any, seen: set, entries: dict) -> tuple[str, str, str] | None:
    if image_id in seen:
        return "error", "an id that occurs twice", "one image an id"
    if image_id not in entries:
        return "warning", "no panoptic annotation", "one for each image; the image is left out"
    return None


def _add_segment(builder: AnnotationsBuilder, segment: dict[str, Any], label: int, things: tuple[bool, ...]) -> None:
    left, top, width, height = segment["bbox"]
    flags = (CROWD if segment.get("iscrowd") else 0) | (0 if things[label] else STUFF)
    builder.add_object(
        (left, top, left + width, top + height), label, segment["id"], area=segment.get("area"), flags=flags
    )
