"""The masks that a metric keeps: refused where sizes differ, and bitmaps that wait to become runs together."""

import numpy as np
import pytest
import torch
from coco_oracle import random_case, run_lengths

from vision.metrics import DetectionAP, records
from vision.metrics.run_reading import runs_of_several
from vision.structures import Detections, Target

NAMES = ("precision", "recall", "scores")


@pytest.mark.parametrize("packed", [False, True])
def test_masks_of_another_size_than_the_truth_are_refused(packed):
    found = Detections(torch.tensor([[0.0, 0, 4, 4]]), torch.ones(1), torch.zeros(1, dtype=torch.long))
    masks = torch.ones(1, 5, 8, dtype=torch.bool)
    masks = [run_lengths(mask) for mask in masks.numpy()] if packed else masks
    found = Detections(found.boxes, found.scores, found.labels, masks)
    target = Target(np.array([[0, 0, 4, 4]]), masks=np.ones((1, 8, 5), bool), image_id=7)
    with pytest.raises(ValueError, match=r"image 7 have sizes \[\(5, 8\), \(8, 5\)\].*resize"):
        DetectionAP(1, "segm").update([found], [target])


def two_boxes(**changes):
    columns = {"boxes": torch.tensor([[0.0, 0, 9, 9]] * 2), "scores": torch.ones(2), "labels": torch.tensor([0, 0])}
    return Detections(**(columns | changes))


NAN = float("nan")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"scores": torch.ones(1)},
            r"update: detections\[1\] has 2 boxes, 1 scores, 2 labels; expected as many of each",
        ),
        ({"labels": torch.zeros(3, dtype=torch.long)}, r"detections\[1\] has 2 boxes, 2 scores, 3 labels"),
        ({"masks": torch.ones(1, 9, 9)}, r"detections\[1\] has 2 boxes, 2 scores, 2 labels, 1 masks"),
        ({"labels": torch.tensor([0.0, 0.9])}, "update: torch.float32 labels; expected integers"),
        (
            {"scores": torch.tensor([0.5, NAN])},
            r"update: detections\[1\] has score nan and box .* expected finite numbers",
        ),
        ({"boxes": torch.tensor([[0.0, 0, 9, 9], [0, NAN, 9, 9]])}, r"detections\[1\] has score 1 and box \[0.0, nan"),
    ],
)
def test_detections_that_are_not_fit_are_named(changes, message):
    metric = DetectionAP(1)
    with pytest.raises(ValueError, match=message):
        metric.update([two_boxes(), two_boxes(**changes)], [Target(np.zeros((0, 4)))] * 2)
    assert not metric.records.image_ids  # nothing of the batch is taken in


def test_what_a_gpu_is_not_asked_in_update_is_told_in_compute(monkeypatch):
    monkeypatch.setattr(records, "_waits", lambda device: True)
    metric = DetectionAP(1)
    for scores in (torch.ones(2), torch.tensor([1.0, NAN])):
        metric.update([two_boxes(scores=scores)], [Target(np.zeros((0, 4)))])
    with pytest.raises(ValueError, match="compute: detections of image 1 of all has score nan"):
        metric.compute()


@pytest.mark.parametrize("waiting", [0, 10**6])
def test_bitmaps_that_wait_give_the_same(waiting, monkeypatch):
    case = random_case(11, "segm", images=6)
    plain = DetectionAP(case.classes, "segm")
    plain.update(case.detections, case.targets)
    monkeypatch.setattr(records, "_waits", lambda device: True)
    monkeypatch.setattr(records, "WAITING", waiting)
    later, other = DetectionAP(case.classes, "segm"), DetectionAP(case.classes, "segm")
    for i, (found, target) in enumerate(zip(case.detections, case.targets)):
        lent = Detections(found.boxes, found.scores, found.labels, found.masks.clone())
        (later if i % 2 else other).update([lent], [target])
        lent.masks.zero_()  # the caller's memory is the caller's
    assert later.records.waiting == 0 if waiting == 0 else later.records.waiting > 0
    later.merge(other)
    for name in NAMES:
        np.testing.assert_array_equal(getattr(later.compute(), name), getattr(plain.compute(), name))


def test_waiting_bitmaps_of_several_sizes():
    sizes = [(5, 9), (16, 8), (3, 40)]
    masks = [torch.rand(3, *size, generator=torch.Generator().manual_seed(0)) < 0.5 for size in sizes]
    runs = runs_of_several([*masks, torch.zeros(0, 50, 60, dtype=torch.bool)])
    assert runs.area().tolist() == [int(one.sum()) for mask in masks for one in mask]
    assert runs.size.tolist() == [list(size) for size in sizes for _ in range(3)]


@pytest.mark.gpu
def test_updates_do_not_wait_for_the_device():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    case = random_case(11, "segm", images=6)
    detections = [one.to("cuda") for one in case.detections]
    metrics = [DetectionAP(case.classes, kind) for kind in ("bbox", "segm", "boundary")]
    torch.cuda.set_sync_debug_mode("error")
    try:
        for metric in metrics:
            metric.update(detections, case.targets)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert metrics[1].compute().average_precision() >= 0
