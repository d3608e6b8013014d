"""Benchmarks of the metrics of pixels, outlines and panoptic maps, for `tools/bench_metrics.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from bench_clock import Bench, Row

__all__ = ["bench_confusion", "bench_panoptic", "bench_surface"]


def bench_confusion(bench: Bench) -> Iterator[Row]:
    from vision.metrics import SegmentationScore

    pairs = bench.images(500)
    rng = np.random.default_rng(0)
    truth = torch.from_numpy(np.kron(rng.integers(0, 19, (8, 32, 64)), np.ones((1, 16, 16), np.int64)))
    predicted = torch.where(torch.rand(truth.shape) < 0.9, truth, (truth + 1) % 19)
    truth = torch.where(torch.rand(truth.shape) < 0.05, 255, truth)
    at_once = 1 if bench.device == "cpu" else 8

    def run(metric: object, sides: list, at_once: int = 1) -> None:
        for i in range(0, pairs, at_once):
            metric.update(*(side[i % 8 : i % 8 + at_once] for side in sides))

    for dtype in (torch.int64, torch.uint8):
        maps = [one.to(dtype) for one in (predicted, truth)]
        there = [one.to(bench.device) for one in maps]

        def peer(sides: list = maps) -> Callable[[], None]:
            from torchmetrics.classification import MulticlassConfusionMatrix

            return lambda: run(MulticlassConfusionMatrix(19, ignore_index=255), sides)

        taken = bench.ours(lambda sides=there: run(SegmentationScore(19), sides, at_once))
        name = "confusion matrix" if dtype == torch.int64 else "confusion matrix of bytes"
        yield Row(name, f"{pairs} pairs 512x1024, 19 classes", taken, "torchmetrics", peer)


def bench_surface(bench: Bench) -> Iterator[Row]:
    from vision.metrics import SurfaceDistance, surface_figures

    rng = np.random.default_rng(0)
    y, x = np.mgrid[:512, :512]

    def blob() -> torch.Tensor:
        angle = np.arctan2(y - 256 - rng.integers(-20, 20), x - 256 - rng.integers(-20, 20))
        radius = rng.integers(60, 140) * (1 + 0.15 * np.cos(rng.integers(2, 7) * angle + rng.random()))
        return torch.from_numpy((y - 256) ** 2 + (x - 256) ** 2 < radius**2)

    masks = [(blob(), blob()) for _ in range(bench.images(100))]

    def ours() -> None:
        for a, b in masks:
            surface_figures(a, b)

    # one class; whatever is not of it has no class
    batch = [torch.stack(side).logical_not().long().to(bench.device) for side in zip(*masks)]

    def ours_batched() -> None:
        SurfaceDistance(1).update(*batch)

    taken = bench.ours(ours if bench.device == "cpu" else ours_batched)
    for name, work in surface_peers(masks).items():
        yield Row("Hausdorff, HD95, ASSD", f"{len(masks)} pairs 512x512", taken, name, work)


def surface_peers(masks: list) -> dict[str, Callable[[], Callable[[], None]]]:
    def monai(all_figures: bool) -> Callable[[], None]:
        from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance

        def work() -> None:
            for a, b in masks:
                batch = (a[None, None], b[None, None])
                compute_hausdorff_distance(*batch, include_background=True)
                if all_figures:
                    compute_hausdorff_distance(*batch, include_background=True, percentile=95)
                    compute_average_surface_distance(*batch, include_background=True, symmetric=True)

        return work

    def scipy() -> Callable[[], None]:
        from scipy import ndimage

        def work() -> None:
            for a, b in masks:
                edges = [one.numpy() ^ ndimage.binary_erosion(one.numpy()) for one in (a, b)]
                for near, far in (edges, edges[::-1]):
                    ndimage.distance_transform_edt(~far)[near].max()

        return work

    return {
        "monai": lambda: monai(False), "monai, all three figures": lambda: monai(True), "scipy, Hausdorff alone": scipy
    }  # fmt: skip


def bench_panoptic(bench: Bench) -> Iterator[Row]:
    from vision.metrics import PanopticMap, PanopticQuality

    pairs = bench.images(100)
    rng = np.random.default_rng(0)
    ids = torch.from_numpy(np.kron(rng.integers(0, 40, (min(pairs, 20), 16, 32)), np.ones((1, 32, 32), np.int64)))
    labels, sides = torch.arange(40) % 19, (torch.roll(ids, (5, 5), (1, 2)), ids)
    maps = [
        [PanopticMap((one.int() * 65 + 1).to(bench.device), torch.arange(40) * 65 + 1, labels) for one in side]
        for side in sides
    ]
    coded = [torch.stack([labels[side], side], -1) for side in sides]

    def ours() -> None:
        metric = PanopticQuality(19)
        for i in range(pairs):
            metric.update(*([side[i % len(ids)]] for side in maps))
        metric.compute()

    def peer() -> Callable[[], None]:
        from torchmetrics.detection import PanopticQuality as Peer

        def work() -> None:
            metric = Peer(things=set(range(19)), stuffs=set())
            for i in range(pairs):
                metric.update(*(side[i % len(ids)][None] for side in coded))
            metric.compute()

        return work

    def counting() -> None:
        for i in range(pairs):
            guess, fact = (side[i % len(ids)].ids.cpu().numpy() for side in maps)
            np.unique(fact.astype(np.int64) * 2**32 + guess, return_counts=True)

    taken, size = bench.ours(ours), f"{pairs} pairs 512x1024, 40 segments"
    for name, work in {"torchmetrics": peer, "numpy (np.unique of pairs only)": lambda: counting}.items():
        yield Row("panoptic quality", size, taken, name, work)
