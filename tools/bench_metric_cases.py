"""Cases of `tools/bench_metrics.py` in COCO's form, and the libraries that evaluate them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["box_case", "coco_peer", "faster_peer", "flat_case", "mask_case", "mask_files"]


def box_case(images: int, rng: np.random.Generator) -> tuple[dict, list]:
    """COCO-like: 7.3 objects an image, 83 detections, 80 classes of falling frequency."""
    share = 1 / np.arange(1, 81)
    share /= share.sum()
    number = images * 73 // 10
    image, label = np.sort(rng.integers(0, images, number)), rng.choice(80, number, p=share)
    box = np.concatenate([rng.random((number, 2)) * 400, np.exp(rng.normal(4, 1, (number, 2)))], 1).round(2)
    near = np.repeat(np.arange(number), 2)
    close = box[near]
    close[:, :2] += rng.normal(0, 0.1, (len(near), 2)) * close[:, 2:]
    close[:, 2:] *= np.exp(rng.normal(0, 0.12, (len(near), 2)))
    far = images * 83 - len(near)
    stray = np.concatenate([rng.random((far, 2)) * 400, np.exp(rng.normal(4, 1, (far, 2)))], 1)
    boxes = np.concatenate([close, stray]).round(2)
    where = np.concatenate([image[near], rng.integers(0, images, far)])
    labels = np.concatenate([label[near], rng.choice(80, far, p=share)])
    scores = np.concatenate([rng.random(len(near)), 0.6 * rng.random(far)]).round(4)
    truth = {
        "info": {},
        "images": [{"id": i, "height": 480, "width": 640} for i in range(images)],
        "categories": [{"id": i, "name": str(i)} for i in range(80)],
        "annotations": [
            {"id": i + 1, "image_id": int(image[i]), "category_id": int(label[i]), "bbox": box[i].tolist(),
             "area": float(box[i, 2] * box[i, 3]), "iscrowd": int(rng.random() < 0.01)} for i in range(number)
        ],
    }  # fmt: skip
    results = [
        {"image_id": int(where[i]), "category_id": int(labels[i]), "bbox": boxes[i].tolist(), "score": float(scores[i])}
        for i in range(len(boxes))
    ]
    return truth, results


def coco_peer(truth: dict, results: list, kind: str) -> Callable[[], object]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    coco = COCO()
    coco.dataset = truth
    coco.createIndex()
    found = coco.loadRes([dict(one) for one in results])

    def work() -> None:
        evaluation = COCOeval(coco, found, kind)
        evaluation.evaluate()
        evaluation.accumulate()

    return work


def faster_peer(truth: dict, results: list, kind: str) -> Callable[[], object]:
    from faster_coco_eval import COCO, COCOeval_faster

    coco = COCO(truth)
    found = coco.loadRes([dict(one) for one in results])

    def work() -> None:
        evaluation = COCOeval_faster(coco, found, kind)
        evaluation.evaluate()
        evaluation.accumulate()

    return work


def mask_case(images: int, each: int, rng: np.random.Generator) -> tuple[list, list]:
    """Ellipses in 480x640 images: (bitmaps, labels) of truth and (bitmaps, labels, scores) of detections."""
    y, x = np.mgrid[:480, :640]

    def ellipses(centres: np.ndarray, radii: np.ndarray) -> np.ndarray:
        parts = zip(centres, radii)
        return np.array([((x - c[0]) / r[0]) ** 2 + ((y - c[1]) / r[1]) ** 2 < 1 for c, r in parts], bool)

    truth, found = [], []
    for _ in range(images):
        centres, radii = rng.random((7, 2)) * [640, 480], np.exp(rng.normal(3.5, 0.7, (7, 2)))
        truth.append((ellipses(centres, radii), rng.integers(0, 10, 7)))
        source = rng.integers(0, 7, each)
        moved = centres[source] + rng.normal(0, 4, (each, 2))
        shapes = ellipses(moved, radii[source] * np.exp(rng.normal(0, 0.1, (each, 2))))
        found.append((shapes, truth[-1][1][source], rng.random(each).astype(np.float32)))
    return truth, found


def mask_files(truth: list, found: list) -> tuple[dict, list]:
    from pycocotools import mask

    def encoded(bitmap: np.ndarray) -> dict:
        rle = mask.encode(np.asfortranarray(bitmap.astype(np.uint8)))
        return {"size": rle["size"], "counts": rle["counts"].decode()}

    annotations, results = [], []
    for image, (masks, labels) in enumerate(truth):
        for bitmap, label in zip(masks, labels):
            rle = encoded(bitmap)
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image, "category_id": int(label), "segmentation": rle,
                 "area": float(bitmap.sum()), "bbox": mask.toBbox(rle).tolist(), "iscrowd": 0}
            )  # fmt: skip
    for image, (masks, labels, scores) in enumerate(found):
        for bitmap, label, score in zip(masks, labels, scores):
            one = {"image_id": image, "category_id": int(label), "segmentation": encoded(bitmap)}
            results.append({**one, "score": float(score)})
    content = {
        "info": {},
        "images": [{"id": i, "height": 480, "width": 640} for i in range(len(truth))],
        "categories": [{"id": i, "name": str(i)} for i in range(10)],
        "annotations": annotations,
    }
    return content, results


def flat_case(content: dict, results: list, kind: str, device: str = "cpu") -> tuple[Any, Any]:
    """The case as our flat tensors of detections and ground truths, on a device."""
    import torch

    from vision.metrics import coco_files

    images = {image["id"]: i for i, image in enumerate(content["images"])}
    labels = {category["id"]: i for i, category in enumerate(content["categories"])}
    rows = {image["id"]: image for image in content["images"]}
    found = coco_files._found(results, images, labels, rows, kind)
    truth = coco_files._truth(content["annotations"], images, labels, rows, kind, False)

    def moved(value: Any) -> Any:
        if value is None or isinstance(value, torch.Tensor) or hasattr(value, "to"):
            return None if value is None else value.to(device)
        return type(value)(**{name: moved(getattr(value, name)) for name in value.__dataclass_fields__})

    return moved(found), moved(truth)
