"""Random detection cases, and what pycocotools makes of them."""

import contextlib
import io
from dataclasses import dataclass

import numpy as np
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from vision.structures import Detections, Target

SIDE = 64


@dataclass
class Case:
    """The same images twice: as COCO dictionaries and as the project's own types."""

    images: int
    classes: int
    annotations: list
    results: list
    detections: list
    targets: list


def random_case(seed: int, kind: str = "bbox", images: int | None = None) -> Case:
    """Ties in score, ties in IoU, crowds, boxes of zero area, areas on the edges of the ranges, empty images."""
    rng = np.random.default_rng(seed)
    images = int(rng.integers(1, 6)) if images is None else images
    case = Case(images, int(rng.integers(1, 4)), [], [], [], [])
    for image in range(images):
        _add_image(case, image, kind, rng)
    return case


def _boxes(count: int, rng: np.random.Generator) -> np.ndarray:
    corner = rng.integers(0, 40, (count, 2))
    sides = rng.integers(0, 24, (count, 2)) if rng.random() < 0.5 else rng.integers(6, 10, (count, 2)) * 4
    return np.concatenate([corner, corner + sides], 1).astype(np.float32)


def _add_image(case: Case, image: int, kind: str, rng: np.random.Generator) -> None:
    number, found = int(rng.integers(0, 8)), int(rng.integers(0, 14))
    truth, boxes = _boxes(number, rng), _boxes(found, rng)
    if number and found:  # some detections on or near a ground truth
        near = int(rng.integers(0, found + 1))
        boxes[:near] = truth[rng.integers(0, number, near)] + rng.integers(-1, 2, (near, 4))
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2])
    labels, found_labels = rng.integers(0, case.classes, number), rng.integers(0, case.classes, found)
    scores = (rng.integers(0, 8, found) / 8).astype(np.float32)
    crowd = rng.random(number) < (1.0 if rng.random() < 0.05 else 0.15)
    masks, found_masks = _masks(truth, rng), _masks(boxes, rng)
    for i in range(min(number, found)):
        if rng.random() < 0.5:
            found_masks[i] = masks[i]
    sides = (truth[:, 2:] - truth[:, :2]).astype(np.float64)
    area = sides[:, 0] * sides[:, 1] if kind == "bbox" else masks.sum((1, 2)).astype(np.float64)
    area = np.where(rng.random(number) < 0.2, rng.choice([1023.5, 1024.0, 9216.0, 9216.5]), area)
    for i in range(number):
        case.annotations.append(
            {"id": len(case.annotations) + 1, "image_id": image, "category_id": int(labels[i]), "bbox": _xywh(truth[i]),
             "area": area[i], "iscrowd": int(crowd[i]), "segmentation": run_lengths(masks[i])}
        )  # fmt: skip
    for i in range(found):
        shape = {"bbox": _xywh(boxes[i])} if kind == "bbox" else {"segmentation": run_lengths(found_masks[i])}
        score = float(scores[i])
        case.results.append({"image_id": image, "category_id": int(found_labels[i]), "score": score, **shape})
    tensors = (torch.from_numpy(array) for array in (boxes, scores, found_labels, found_masks))
    case.detections.append(Detections(*tensors))
    case.targets.append(Target(truth, labels, crowd=crowd, area=area, masks=masks, image_id=image, size=(SIDE, SIDE)))


def _xywh(box: np.ndarray) -> list:
    left, top, right, bottom = box.astype(float).tolist()
    return [left, top, right - left, bottom - top]


def _masks(boxes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    masks = np.zeros((len(boxes), SIDE, SIDE), bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes.astype(int).clip(0, SIDE)):
        mask[top:bottom, left:right] = rng.random((bottom - top, right - left)) < 0.9
    return masks


def run_lengths(mask: np.ndarray) -> dict:
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))


def coco_files(annotations: list, images: int, classes: int) -> dict:
    return {
        "images": [{"id": i, "height": SIDE, "width": SIDE} for i in range(images)],
        "categories": [{"id": c, "name": f"class {c}"} for c in range(classes)],
        "annotations": annotations,
    }


def pycocotools_arrays(content: dict, results: list, kind: str, limits=(1, 10, 100)) -> dict[str, np.ndarray]:
    """precision, recall, scores of pycocotools with NaN for its -1."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = content
        truth.createIndex()
        found = truth.loadRes([dict(one) for one in results]) if results else COCO()
        evaluation = COCOeval(truth, found, kind)
        evaluation.params.maxDets = list(limits)
        evaluation.evaluate()
        evaluation.accumulate()
    arrays = {name: evaluation.eval[name] for name in ("precision", "recall", "scores")}
    return {name: np.where(value == -1, np.nan, value) for name, value in arrays.items()}
