"""Metrics against their peers, measured side by side: seconds and ratios, as a Markdown table.

python tools/bench_metrics.py [--threads 1] [--device cuda] [--scale 1.0] [--only box mask confusion ...] [--ours]

On a CPU times are CPU seconds of this process (several threads add up), so that other load on the machine matters
little. With `--device cuda` ours are seconds on the clock, from idle to idle device, and peers stay on the CPU in CPU
seconds. Each pair of figures comes from one run on the same data; inputs are made beforehand, in each side's own form.
Peers: pycocotools, faster-coco-eval, torchmetrics, monai, scipy (the `test` extra); `--ours` leaves them out.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from bench_clock import Bench, Row, peak_above, quiet, seconds
from bench_metric_cases import box_case, coco_peer, faster_peer, flat_case, mask_case, mask_files
from bench_metric_maps import bench_confusion, bench_panoptic, bench_surface

MUST = {
    ("box AP", "pycocotools"): (25, 400),
    ("mask AP from RLE", "pycocotools"): (5, None),
    ("mask AP from bitmaps", "torchmetrics"): (5, 50),
    ("boundary AP", "faster-coco-eval"): (10, 200),
    ("confusion matrix", "torchmetrics"): (30, None),
    ("Hausdorff, HD95, ASSD", "monai"): (2, 20),
    ("panoptic quality", "torchmetrics"): (80, None),
    ("panoptic quality", "numpy (np.unique of pairs only)"): (None, 10),
}  # times faster than that peer: one CPU thread, GPU


PEERS = {"pycocotools": coco_peer, "faster-coco-eval": faster_peer}


def bench_box(bench: Bench) -> Iterator[Row]:
    from vision.metrics.average_precision import Protocol, evaluate_detections

    images = bench.images(5000)
    truth, results = box_case(images, np.random.default_rng(0))
    found, actual = flat_case(truth, results, "bbox", bench.device)

    def ours() -> None:
        evaluate_detections(found, actual, Protocol(80, images))

    size = f"{images} images, {len(truth['annotations'])} objects, {len(results)} detections"
    size += f"; {peak_above(ours, bench.device):.0f} MiB above the inputs"
    taken = bench.ours(ours)
    for peer in PEERS:
        yield Row("box AP", size, taken, peer, partial(PEERS[peer], truth, results, "bbox"))


def bench_mask(bench: Bench) -> Iterator[Row]:
    from vision.metrics.average_precision import Protocol, evaluate_detections

    images = bench.images(500)
    truth, found = mask_case(images, 47, np.random.default_rng(0))
    content, results = mask_files(truth, found)

    def from_rle() -> None:
        evaluate_detections(*flat_case(content, results, "segm", bench.device), Protocol(10, images, "segm"))

    taken = bench.ours(from_rle)
    size = f"{images} images 480x640, {len(results)} detections"
    for peer in PEERS:
        yield Row("mask AP from RLE", size, taken, peer, partial(PEERS[peer], content, results, "segm"))


def bench_boundary(bench: Bench) -> Iterator[Row]:
    from vision.metrics.average_precision import Protocol, evaluate_detections

    images = bench.images(100)
    content, results = mask_files(*mask_case(images, 47, np.random.default_rng(0)))

    def ours() -> None:
        evaluate_detections(*flat_case(content, results, "boundary", bench.device), Protocol(10, images, "boundary"))

    size, peer = f"{images} images 480x640, {len(results)} detections", "faster-coco-eval"
    yield Row("boundary AP", size, bench.ours(ours), peer, partial(PEERS[peer], content, results, "boundary"))


def bench_bitmaps(bench: Bench) -> Iterator[Row]:
    from vision.metrics import DetectionAP
    from vision.structures import Detections, Target

    truth, found = mask_case(bench.images(50), 47, np.random.default_rng(0))
    tensors = [tuple(map(torch.from_numpy, one)) for one in found]
    there = [tuple(part.to(bench.device) for part in one) for one in tensors]
    detections = [Detections(torch.zeros(len(b), 4, device=bench.device), c, b, a) for a, b, c in there]
    targets = [
        Target(np.zeros((len(labels), 4)), labels, area=masks.sum((1, 2)), masks=masks, image_id=i)
        for i, (masks, labels) in enumerate(truth)
    ]

    def ours() -> None:
        metric = DetectionAP(10, "segm")
        for one, target in zip(detections, targets):
            metric.update([one], [target])
        metric.compute()

    def peer() -> Callable[[], None]:
        from torchmetrics.detection import MeanAveragePrecision

        def work() -> None:
            metric = MeanAveragePrecision(iou_type="segm")
            for (masks, labels, scores), (true, names) in zip(tensors, truth):
                fact = {"masks": torch.from_numpy(true), "labels": torch.from_numpy(names)}
                metric.update([{"masks": masks, "labels": labels, "scores": scores}], [fact])
            metric.compute()

        return work

    size = f"{len(truth)} images 480x640, {47 * len(truth)} detections"
    yield Row("mask AP from bitmaps", size, bench.ours(ours, 2), "torchmetrics", peer)


BENCHES = {
    "box": bench_box, "mask": bench_mask, "bitmaps": bench_bitmaps, "boundary": bench_boundary,
    "confusion": bench_confusion, "surface": bench_surface, "panoptic": bench_panoptic,
}  # fmt: skip


def print_row(row: Row, device: str, with_peer: bool) -> None:
    start = f"| {row.job} | {row.size} | {row.ours:.3f} | {row.peer} |"
    must = MUST.get((row.job, row.peer), (None, None))[device != "cpu"]
    if not with_peer:
        print(f"{start} | | {'' if must is None else f'{must}x'} |", flush=True)
        return
    with quiet():
        work = row.prepare()
    theirs = seconds(work)
    ratio = theirs / row.ours
    verdict = "" if must is None else f"{must}x {'met' if ratio >= must else 'MISSED'}"
    print(f"{start} {theirs:.2f} | {ratio:.1f}x | {verdict} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="threads of torch; 0: torch's default")
    parser.add_argument("--device", default="cpu", help="where ours runs: cpu or cuda")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full number of images")
    parser.add_argument("--only", nargs="+", choices=BENCHES, default=list(BENCHES), help="these rows alone")
    parser.add_argument("--ours", action="store_true", help="without the peers, most of which take a minute or more")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    unit = "CPU seconds" if options.device == "cpu" else "ours: seconds on the clock; peers: CPU seconds on the CPU"
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.device}; {unit}\n")
    print("| job | size | ours (s) | peer | peer (s) | ratio | must |\n|---|---|---:|---|---:|---:|---|")
    for name in options.only:
        for row in BENCHES[name](Bench(options.device, options.scale)):
            print_row(row, options.device, not options.ours)


if __name__ == "__main__":
    main()
