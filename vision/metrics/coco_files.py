"""COCO ground truth and results files as flat arrays for the evaluation, in the files' own float64."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from operator import le
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from vision.metrics.file_checks import check_results, check_truth
from vision.metrics.overlap import Found, Truth
from vision.metrics.run_reading import runs_from_rle
from vision.metrics.runs import Runs
from vision.structures import ClassMap

__all__ = ["CocoCase", "read_case", "read_json"]


@dataclass(frozen=True)
class CocoCase:
    """Detections and ground truths of one evaluation, and notes on what was left out and why."""

    found: Found
    truth: Truth
    classes: ClassMap
    images: int
    notes: tuple[str, ...]


def read_json(path: str | Path) -> Any:
    """The content of a JSON file; ValueError names it when it is none, FileNotFoundError when it is absent."""
    try:
        return json.loads(Path(path).read_bytes())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not a JSON file ({error})") from None


def read_case(truth_path: str | Path, results_path: str | Path, kind: str, zero_id_unmatched: bool = False) -> CocoCase:
    """Read ground truth (COCO instances) and results (a list of detections) for kind "bbox", "segm" or "boundary".

    `zero_id_unmatched` reproduces pycocotools, for which a match with annotation id 0 is none. Results that name images
    by their files, as those of `vision predict`, are taken for the truth's images of these names, with a note. Results
    of categories that the ground truth does not list are left out with a note; those of unknown images are an error.
    ValueError names the file and the entry that is not fit.
    """
    truth, results = read_json(truth_path), read_json(results_path)
    if not isinstance(truth, dict) or not {"images", "annotations", "categories"} <= truth.keys():
        raise ValueError(f"{truth_path}: not COCO ground truth; expected the keys images, annotations, categories")
    if not isinstance(results, list):
        raise ValueError(f"{results_path}: not COCO results; expected a list of detections")
    annotations = check_truth(truth_path, truth, kind)
    images = {one["id"]: one for one in truth["images"]}
    by_name = _by_file_name(results, images)
    results = results if by_name is None else by_name
    detections = check_results(results_path, results, kind, truth_path, images)
    categories = sorted(truth["categories"], key=lambda category: category["id"])
    classes = ClassMap(tuple(c["name"] for c in categories), tuple(c["id"] for c in categories))
    labels = {category: label for label, category in enumerate(classes.ids)}
    order = {image: number for number, image in enumerate(sorted(images))}
    known = [one for one in results if one["category_id"] in labels]
    counted = [one for one in truth["annotations"] if one["category_id"] in labels and one["image_id"] in order]
    notes = []
    if by_name is not None:
        notes.append(f"{results_path} names images by their files: taken for the images of these names in {truth_path}")
    if len(known) < len(results):
        notes.append(f"{len(results) - len(known)} results of unlisted categories left out")
    if len(counted) < len(truth["annotations"]):
        notes.append(
            f"{len(truth['annotations']) - len(counted)} annotations of unlisted images or categories left out"
        )
    found = _found(known, order, labels, images, kind, detections.name)
    actual = _truth(counted, order, labels, images, kind, zero_id_unmatched, annotations.name)
    return CocoCase(found, actual, classes, len(order), tuple(notes))


def _by_file_name(results: list, images: dict) -> list[dict] | None:
    """The results with the truth's image ids in place of file names, where all of them name images of the truth.

    Names are compared whole, else by their last parts; both ways one name stands for one image. None where some ids are
    no text or known to the truth, and where some names are unknown or ambiguous.
    """
    if not results or not all(type(row) is dict and type(row.get("image_id")) is str for row in results):
        return None
    names = {row["image_id"]: str(row.get("file_name", row["image_id"])) for row in results}
    if not names.keys().isdisjoint(images):
        return None
    for shorten in (str, lambda name: PurePosixPath(name).name):
        files = {image: shorten(str(row["file_name"])) for image, row in images.items() if "file_name" in row}
        times = Counter(files.values())
        image_of = {name: image for image, name in files.items() if times[name] == 1}
        found = {one: image_of.get(shorten(name)) for one, name in names.items()}
        if None not in found.values() and len(set(found.values())) == len(found):
            return [{**row, "image_id": found[row["image_id"]]} for row in results]
    return None


def _of_image(entry: dict) -> str:
    return f"a mask of image {entry['image_id']}"


def _found(
    results: list[dict], order: dict, labels: dict, images: dict, kind: str, name: Callable[[dict], str] = _of_image
) -> Found:
    """The results in the order of their images; `name` is what an error calls one of them."""
    results = _by_image(results, order)
    masks = _runs(results, images, name) if kind != "bbox" else None
    # as pycocotools: where results carry boxes, the box decides about small, medium, large, for masks too
    by_box = kind == "bbox" or (bool(results) and bool(results[0].get("bbox")))
    box = _floats([one["bbox"] for one in results], 4) if by_box else torch.zeros((len(results), 4)).double()
    area = box[:, 2] * box[:, 3] if by_box else masks.area().double()
    score = _floats([one["score"] for one in results])
    return Found(*_places(results, order, labels), score, box, area, masks)


def _truth(
    annotations: list[dict], order: dict, labels: dict, images: dict, kind: str, zero: bool,
    name: Callable[[dict], str] = _of_image,
) -> Truth:  # fmt: skip
    """The same of annotations; zero: those with id 0 match nothing."""
    annotations = _by_image(annotations, order)
    masks = _runs(annotations, images, name) if kind != "bbox" else None
    box = _floats([one["bbox"] if kind == "bbox" else (0, 0, 0, 0) for one in annotations], 4)  # unused for masks
    area = [one["area"] if "area" in one else one["bbox"][2] * one["bbox"][3] for one in annotations]
    crowd = torch.tensor([bool(one.get("iscrowd", 0)) for one in annotations], dtype=torch.bool)
    unmatchable = torch.tensor([zero and one.get("id") == 0 for one in annotations], dtype=torch.bool)
    difficult = torch.tensor([bool(one.get("difficult", 0)) for one in annotations], dtype=torch.bool)
    return Truth(*_places(annotations, order, labels), box, _floats(area), crowd, unmatchable, difficult, masks)


def _by_image(entries: list[dict], order: dict) -> list[dict]:
    """Entries by image, in the file's order within an image."""
    places = [order[one["image_id"]] for one in entries]
    if all(map(le, places, places[1:])):
        return entries
    return [entries[i] for i in sorted(range(len(entries)), key=places.__getitem__)]


def _places(entries: list[dict], order: dict, labels: dict) -> tuple[Tensor, Tensor]:
    image = torch.tensor([order[one["image_id"]] for one in entries], dtype=torch.int64)
    return image, torch.tensor([labels[one["category_id"]] for one in entries], dtype=torch.int64)


def _floats(values: list, width: int | None = None) -> Tensor:
    tensor = torch.tensor(values, dtype=torch.float64)
    return tensor if width is None else tensor.reshape(-1, width)


def _runs(entries: list[dict], images: dict, name: Callable[[dict], str]) -> Runs:
    shapes = [one["segmentation"] for one in entries]
    for shape, one in zip(shapes, entries):
        expected = images[one["image_id"]]
        if type(shape) is dict and shape["size"] != [expected["height"], expected["width"]]:
            raise ValueError(
                f"{name(one)}: a mask that has size {shape['size']}; expected that of the image, "
                f"[{expected['height']}, {expected['width']}]: resize the masks to the images"
            )
    if set(map(type, shapes)) - {dict}:
        shapes = [_run_lengths(shape, images[one["image_id"]]) for shape, one in zip(shapes, entries)]
    return runs_from_rle(shapes, lambda number: name(entries[number]))


def _run_lengths(segmentation: list | dict, image: dict) -> dict:
    if isinstance(segmentation, dict):
        return segmentation
    from pycocotools import mask  # polygons are drawn by the reference's own code, pixel for pixel

    return mask.merge(mask.frPyObjects(segmentation, image["height"], image["width"]))
