"""One process equals two (gloo)."""

import socket

import numpy as np
import torch
import torch.multiprocessing as processes
from coco_oracle import random_case

from vision.metrics import (
    DetectionAP,
    DetectionOptions,
    DetectionScore,
    PanopticQuality,
    RandScore,
    SegmentationScore,
    SurfaceDistance,
    VocAP,
    panoptic_map,
)


def metrics_of(part: slice) -> list:
    case = random_case(4, "segm", images=6)
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 3, (6, 16, 16), generator=generator)
    predicted = torch.where(torch.rand(6, 16, 16, generator=generator) < 0.8, truth, 0)
    metrics = [DetectionAP(case.classes), DetectionAP(case.classes, "segm"), SegmentationScore(3), PanopticQuality(3)]
    metrics += [SurfaceDistance(3), SegmentationScore(3, per_image=True), SegmentationScore(3, score_bins=64)]
    metrics.append(RandScore(3))
    analysis = DetectionScore(case.classes, DetectionOptions("segm", analyse=True))
    metrics += [DetectionAP(case.classes, "boundary"), VocAP(case.classes), analysis]
    for metric in (*metrics[:2], *metrics[-3:]):
        metric.update(case.detections[part], case.targets[part])
    for metric in (metrics[2], metrics[4], metrics[5], metrics[7]):
        metric.update(predicted[part], truth[part])
    scores = torch.rand(6, 3, 16, 16, generator=generator)
    metrics[6].update(predicted[part], truth[part], scores[part])
    maps = [[panoptic_map(one, torch.zeros_like(one)) for one in side[part]] for side in (predicted, truth)]
    metrics[3].update(*maps)
    return metrics


def arrays_of(metrics: list) -> list:
    results = [metric.compute() for metric in metrics]
    arrays = [
        getattr(result, name) for result in (*results[:2], results[-3]) for name in ("precision", "recall", "scores")
    ]
    voc, parts = results[-2], results[-1]
    arrays += [voc.area, voc.eleven_point, parts.confusion.matrix, parts.errors.counts, *parts.curves.best().values()]
    arrays += [np.array(list(parts.errors.fixed.values()))]
    arrays += [results[2].matrix, results[6].figures["average_precision"], results[7].pairs]
    return [*arrays, *results[5].figures.values(), results[3].sums, results[4].values]


def worker(rank: int, port: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", world_size=2, rank=rank)
    # every second image, as a distributed sampler deals them; nobody has to have seen anything
    metrics = metrics_of(slice(rank, None, 2))
    for metric in metrics:
        metric.all_reduce()
    np.savez(f"{folder}/{rank}.npz", *arrays_of(metrics))
    torch.distributed.destroy_process_group()


def test_two_processes_equal_one(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes.spawn(worker, (port, str(tmp_path)), nprocs=2)
    expected = arrays_of(metrics_of(slice(None)))
    means = len(SegmentationScore(1).compute().figures) + 2  # over images: they add up in another order
    for rank in range(2):
        found = np.load(tmp_path / f"{rank}.npz")
        for i, array in enumerate(expected[:-2]):
            exact = i < len(expected) - means
            np.testing.assert_allclose(found[f"arr_{i}"], array, rtol=0 if exact else 1e-12)
        np.testing.assert_allclose(found[f"arr_{len(expected) - 2}"], expected[-2], atol=1e-12)
        order = np.argsort([0, 2, 4, 1, 3, 5])  # by image, whatever the rank that measured it
        np.testing.assert_array_equal(found[f"arr_{len(expected) - 1}"][order], expected[-1])
