"""Metrics against their peers, measured side by side: CPU seconds and ratios, as a Markdown table.

python tools/bench_metrics.py [--threads 1] [--scale 1.0] [--only box mask boundary confusion surface panoptic]

Times are CPU seconds of this process (several threads add up), so that other load on the machine matters little. Every
pair of figures is measured in one run on the same data; the inputs of each side are made beforehand, in its own form.
Peers: pycocotools, faster-coco-eval, torchmetrics, monai, scipy (the `test` extra).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import resource
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch

MUST = {
    ("box AP", "pycocotools"): 25,
    ("mask AP from RLE", "pycocotools"): 5,
    ("mask AP from bitmaps", "torchmetrics"): 5,
    ("boundary AP", "faster-coco-eval"): 10,
    ("confusion matrix", "torchmetrics"): 30,
    ("Hausdorff, HD95, ASSD", "monai"): 2,
    ("panoptic quality", "torchmetrics"): 80,
}


def seconds(work: Callable[[], object], repeat: int = 1) -> float:
    """Least CPU seconds of some runs; what the work prints is dropped."""
    times = []
    for _ in range(repeat):
        begin = time.process_time()
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            work()
        times.append(time.process_time() - begin)
    return min(times)


def quiet(work: Callable[[], object]) -> object:
    with contextlib.redirect_stdout(io.StringIO()):
        return work()


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
    quiet(coco.createIndex)
    found = quiet(lambda: coco.loadRes([dict(one) for one in results]))

    def work() -> None:
        evaluation = COCOeval(coco, found, kind)
        evaluation.evaluate()
        evaluation.accumulate()

    return work


def faster_peer(truth: dict, results: list, kind: str) -> Callable[[], object]:
    from faster_coco_eval import COCO, COCOeval_faster

    coco = quiet(lambda: COCO(truth))
    found = quiet(lambda: coco.loadRes([dict(one) for one in results]))

    def work() -> None:
        evaluation = COCOeval_faster(coco, found, kind)
        evaluation.evaluate()
        evaluation.accumulate()

    return work


def bench_box(scale: float) -> list[tuple]:
    from vision.metrics import coco_files
    from vision.metrics.average_precision import Protocol, evaluate_detections

    images = int(5000 * scale)
    truth, results = box_case(images, np.random.default_rng(0))
    order, labels = {i: i for i in range(images)}, {i: i for i in range(80)}
    rows = dict(enumerate(truth["images"]))
    found = coco_files._found(results, order, labels, rows, "bbox")
    actual = coco_files._truth(truth["annotations"], order, labels, rows, "bbox", False)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ours = seconds(lambda: evaluate_detections(found, actual, Protocol(80, images)), 3)
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    size = f"{images} images, {len(truth['annotations'])} objects, {len(results)} detections; {memory:.0f} MB more"
    peers = {"pycocotools": coco_peer, "faster-coco-eval": faster_peer}
    return [("box AP", size, ours, name, seconds(make(truth, results, "bbox"))) for name, make in peers.items()]


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


def bench_mask(scale: float) -> list[tuple]:
    from torchmetrics.detection import MeanAveragePrecision

    from vision.metrics import DetectionAP, coco_files
    from vision.metrics.average_precision import Protocol, evaluate_detections
    from vision.structures import Detections, Target

    images = max(4, int(500 * scale))
    truth, found = mask_case(images, 47, np.random.default_rng(0))
    content, results = mask_files(truth, found)
    order, labels = {i: i for i in range(images)}, {i: i for i in range(10)}
    rows = dict(enumerate(content["images"]))

    def from_rle() -> None:
        flat = coco_files._found(results, order, labels, rows, "segm")
        actual = coco_files._truth(content["annotations"], order, labels, rows, "segm", False)
        evaluate_detections(flat, actual, Protocol(10, images, "segm"))

    name, size = "mask AP from RLE", f"{images} images 480x640, {len(results)} detections"
    ours = seconds(from_rle, 3)
    peers = {"pycocotools": coco_peer, "faster-coco-eval": faster_peer}
    table = [(name, size, ours, peer, seconds(make(content, results, "segm"))) for peer, make in peers.items()]

    few = max(4, images // 10)
    tensors = [tuple(map(torch.from_numpy, one)) for one in found[:few]]
    detections = [Detections(torch.zeros(len(one[1]), 4), one[2], one[1], one[0]) for one in tensors]
    boxes = [np.zeros((len(one[1]), 4)) for one in truth]
    targets = [
        Target(boxes[i], one[1], area=one[0].sum((1, 2)), masks=one[0], image_id=i) for i, one in enumerate(truth[:few])
    ]
    predictions = [{"masks": one[0], "labels": one[1], "scores": one[2]} for one in tensors]
    facts = [{"masks": torch.from_numpy(one[0]), "labels": torch.from_numpy(one[1])} for one in truth[:few]]

    def from_bitmaps() -> None:
        metric = DetectionAP(10, "segm")
        for found_here, target in zip(detections, targets):
            metric.update([found_here], [target])
        metric.compute()

    def peer_from_bitmaps() -> None:
        metric = MeanAveragePrecision(iou_type="segm")
        for prediction, fact in zip(predictions, facts):
            metric.update([prediction], [fact])
        metric.compute()

    size = f"{few} images 480x640, {47 * few} detections"
    bitmaps = seconds(from_bitmaps, 2)
    return [*table, ("mask AP from bitmaps", size, bitmaps, "torchmetrics", seconds(peer_from_bitmaps))]


def bench_confusion(scale: float) -> list[tuple]:
    from torchmetrics.classification import MulticlassConfusionMatrix

    from vision.metrics import SegmentationScore

    pairs = max(4, int(100 * scale))
    rng = np.random.default_rng(0)
    truth = torch.from_numpy(np.kron(rng.integers(0, 19, (8, 32, 64)), np.ones((1, 16, 16), np.int64)))
    predicted = torch.where(torch.rand(truth.shape) < 0.9, truth, (truth + 1) % 19)
    truth = torch.where(torch.rand(truth.shape) < 0.05, 255, truth)

    def run(metric: object) -> None:
        for i in range(pairs):
            metric.update(predicted[i % 8 : i % 8 + 1], truth[i % 8 : i % 8 + 1])

    ours = seconds(lambda: run(SegmentationScore(19)), 3)
    peer = seconds(lambda: run(MulticlassConfusionMatrix(19, ignore_index=255)))
    return [("confusion matrix", f"{pairs} pairs 512x1024, 19 classes", ours, "torchmetrics", peer)]


def bench_surface(scale: float) -> list[tuple]:
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance
    from scipy import ndimage

    from vision.metrics import surface_figures

    pairs = max(4, int(100 * scale))
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:512, :512]

    def blob() -> torch.Tensor:
        angle = np.arctan2(y - 256 - rng.integers(-20, 20), x - 256 - rng.integers(-20, 20))
        radius = rng.integers(60, 140) * (1 + 0.15 * np.cos(rng.integers(2, 7) * angle + rng.random()))
        return torch.from_numpy((y - 256) ** 2 + (x - 256) ** 2 < radius**2)

    masks = [(blob(), blob()) for _ in range(pairs)]

    def monai() -> None:
        for a, b in masks:
            batch = (a[None, None], b[None, None])
            compute_hausdorff_distance(*batch, include_background=True)

    def monai_all() -> None:
        monai()
        for a, b in masks:
            batch = (a[None, None], b[None, None])
            compute_hausdorff_distance(*batch, include_background=True, percentile=95)
            compute_average_surface_distance(*batch, include_background=True, symmetric=True)

    def scipy() -> None:
        for a, b in masks:
            edges = [one.numpy() ^ ndimage.binary_erosion(one.numpy()) for one in (a, b)]
            for near, far in (edges, edges[::-1]):
                ndimage.distance_transform_edt(~far)[near].max()

    ours = seconds(lambda: [surface_figures(a, b) for a, b in masks], 3)
    name, size = "Hausdorff, HD95, ASSD", f"{pairs} pairs 512x512"
    peers = {"monai": monai, "monai, all three figures": monai_all, "scipy": scipy}
    return [(name, size, ours, peer, seconds(work)) for peer, work in peers.items()]


def bench_panoptic(scale: float) -> list[tuple]:
    from torchmetrics.detection import PanopticQuality as Peer

    from vision.metrics import PanopticMap, PanopticQuality

    pairs = max(3, int(20 * scale))
    rng = np.random.default_rng(0)
    cells = rng.integers(0, 40, (pairs, 16, 32))
    ids = torch.from_numpy(np.kron(cells, np.ones((1, 32, 32), np.int64)))
    guesses = torch.roll(ids, (5, 5), (1, 2))
    labels = torch.arange(40) % 19
    maps = [
        [PanopticMap(one.int() * 65 + 1, torch.arange(40) * 65 + 1, labels) for one in side] for side in (guesses, ids)
    ]
    coded = [torch.stack([labels[side], side], -1) for side in (guesses, ids)]

    def ours() -> None:
        metric = PanopticQuality(19)
        for guess, fact in zip(*maps):
            metric.update([guess], [fact])
        metric.compute()

    def peer() -> None:
        metric = Peer(things=set(range(19)), stuffs=set())
        for guess, fact in zip(*coded):
            metric.update(guess[None], fact[None])
        metric.compute()

    def numpy() -> None:
        for guess, fact in zip(*maps):
            np.unique(fact.ids.numpy().astype(np.int64) * 2**32 + guess.ids.numpy(), return_counts=True)

    peers = {"torchmetrics": peer, "numpy (np.unique of pairs only)": numpy}
    measured = seconds(ours, 3)
    size = f"{pairs} pairs 512x1024, 40 segments"
    return [("panoptic quality", size, measured, name, seconds(work)) for name, work in peers.items()]


BENCHES = {"box": bench_box, "mask": bench_mask, "confusion": bench_confusion, "surface": bench_surface,
           "panoptic": bench_panoptic}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="threads of torch; 0: torch's default")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full number of images")
    parser.add_argument("--only", nargs="+", choices=BENCHES, default=list(BENCHES))
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, CPU seconds\n")
    print("| job | size | ours (s) | peer | peer (s) | ratio | must |\n|---|---|---:|---|---:|---:|---|")
    for name in options.only:
        for job, size, ours, peer, theirs in BENCHES[name](options.scale):
            ratio, must = theirs / ours, MUST.get((job, peer))
            verdict = "" if must is None else f"{must}x {'met' if ratio >= must else 'MISSED'}"
            print(f"| {job} | {size} | {ours:.3f} | {peer} | {theirs:.2f} | {ratio:.1f}x | {verdict} |", flush=True)


if __name__ == "__main__":
    main()
