"""VOC AP: a published worked example, hand-derived cases, and a plain loop over random cases."""

import json
import math
import re

import numpy as np
import pytest
import torch
from coco_oracle import random_case

from vision.metrics import VocAP
from vision.structures import Detections, Target

# The worked example that the AP literature shows most (Padilla, Netto and da Silva, "A Survey on Performance Metrics
# for Object-Detection Algorithms", IWSSIP 2020): one class, 7 images, IoU >= 0.3; x, y, width, height; score first
OBJECTS = {
    1: [(25, 16, 38, 56), (129, 123, 41, 62)],
    2: [(123, 11, 43, 55), (38, 132, 59, 45)],
    3: [(16, 14, 35, 48), (123, 30, 49, 44), (99, 139, 47, 47)],
    4: [(53, 42, 40, 52), (154, 43, 31, 34)],
    5: [(59, 31, 44, 51), (48, 128, 34, 52)],
    6: [(36, 89, 52, 76), (62, 58, 44, 67)],
    7: [(28, 31, 55, 63), (58, 67, 50, 58)],
}
FOUND = {
    1: [(0.88, 5, 67, 31, 48), (0.70, 119, 111, 40, 67), (0.80, 124, 9, 49, 67)],
    2: [(0.71, 64, 111, 64, 58), (0.54, 26, 140, 60, 47), (0.74, 19, 18, 43, 35)],
    3: [(0.18, 109, 15, 77, 39), (0.67, 86, 63, 46, 45), (0.38, 160, 62, 36, 53), (0.91, 105, 131, 47, 47),
        (0.44, 18, 148, 40, 44)],
    4: [(0.35, 83, 28, 28, 26), (0.78, 28, 68, 42, 67), (0.45, 87, 89, 25, 39), (0.14, 10, 155, 60, 26)],
    5: [(0.62, 50, 38, 28, 46), (0.44, 95, 11, 53, 28), (0.95, 29, 131, 72, 29), (0.23, 29, 163, 72, 29)],
    6: [(0.45, 43, 48, 74, 38), (0.84, 17, 155, 29, 35), (0.43, 95, 110, 25, 42)],
    7: [(0.48, 16, 20, 101, 88), (0.95, 33, 116, 37, 49)],
}  # fmt: skip


def corners(rows):
    boxes = np.array(rows, np.float64).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1).astype(np.float32)


def found_at(*rows, label=0):
    """Rows: score, x, y, width, height."""
    rows = np.array(rows, np.float64).reshape(-1, 5)
    labels = torch.full((len(rows),), label)
    return Detections(torch.from_numpy(corners(rows[:, 1:])), torch.from_numpy(rows[:, 0].astype(np.float32)), labels)


def truth_at(*rows, **others):
    return Target(corners(rows), **others)


def evaluate(detections, targets, classes=1, **options):
    metric = VocAP(classes, **options)
    metric.update(detections, targets)
    return metric.compute()


def test_published_example(device):
    # published: 26.84 % by 11 points, 24.57 % by all points; hits at ranks 1, 3, 10, 12, 13, 14, 23 of 24, 15 objects
    metric = VocAP(1, iou=0.3, corners="inclusive")
    targets = [truth_at(*OBJECTS[i], image_id=i) for i in OBJECTS]
    metric.update([found_at(*FOUND[i]).to(device) for i in OBJECTS], targets)
    result = metric.compute()
    assert (result.positives[0], result.true_positives[0], result.false_positives[0]) == (15, 7, 17)
    # highest precision: 1 at recall 0, 2/3 at 0.1, 6/14 at 0.2, 0.3 and 0.4, then 0
    assert result.eleven_point[0] == pytest.approx((1 + 2 / 3 + 3 * 6 / 14) / 11, abs=1e-12)
    assert round(100 * result.eleven_point[0], 2) == 26.84
    assert result.area[0] == pytest.approx((1 + 2 / 3 + 4 * 6 / 14 + 7 / 23) / 15, abs=1e-12)
    assert round(100 * result.area[0], 2) == 24.57


def test_published_example_without_the_added_pixel():
    # the last hit (score 0.18) has 1250 / 4120 = 0.303 of pixels but 1176 / 3983 = 0.295 of lengths
    result = evaluate([found_at(*FOUND[i]) for i in OBJECTS], [truth_at(*OBJECTS[i]) for i in OBJECTS], iou=0.3)
    assert result.true_positives[0] == 6
    assert result.area[0] == pytest.approx((1 + 2 / 3 + 4 * 6 / 14) / 15, abs=1e-12)


def test_recall_on_a_tenth_counts():
    # 10 objects, hits at ranks 1, 2 and 4: recalls 0.1 and 0.2 have precision 1, 0.3 (exactly reached) has 3/4
    objects = [(20 * i, 0, 10, 10) for i in range(10)]
    rows = [(0.9, *objects[0]), (0.8, *objects[1]), (0.7, 0, 50, 10, 10), (0.6, *objects[2])]
    result = evaluate([found_at(*rows)], [truth_at(*objects)])
    assert result.eleven_point[0] == pytest.approx((3 + 0.75) / 11, abs=1e-12)
    assert result.area[0] == pytest.approx((2 + 0.75) / 10, abs=1e-12)


def test_difficult_objects_and_what_goes_to_them_do_not_count():
    objects = [(0, 0, 10, 10), (50, 0, 10, 10)]
    rows = [(0.9, 50, 0, 10, 10), (0.8, 50, 0, 10, 10), (0.7, 0, 0, 10, 10)]
    assert evaluate([found_at(*rows)], [truth_at(*objects, difficult=[False, True])]).area[0] == 1
    # otherwise: hit, second on the same object, hit: (1 + 2/3) / 2
    assert evaluate([found_at(*rows)], [truth_at(*objects)]).area[0] == pytest.approx(5 / 6)
    only = evaluate([found_at(*rows)], [truth_at(*objects, difficult=[True, True])])
    assert math.isnan(only.area[0])
    assert only.to_dict()["classes_left_out"] == 1


def test_no_second_choice():
    # both overlap the first object most; the second object is within reach of the later one (IoU 0.6), yet VOC's rule
    # makes that one a false positive, where COCO's would let it take what is free
    objects = [(0, 0, 10, 10), (3, 0, 10, 10)]
    result = evaluate([found_at((0.9, 0, 0, 10, 10), (0.8, 1, 0, 10, 10))], [truth_at(*objects)])
    assert (result.true_positives[0], result.false_positives[0]) == (1, 1)


def test_inclusive_corners_are_one_pixel_longer():
    # corners (0, 0, 4, 4) and (0, 0, 4, 1): 4x1 of 4x4 = 0.25 as lengths; as pixels 5x2 of 5x5 = 0.4
    found, truth = found_at((0.9, 0, 0, 4, 1)), truth_at((0, 0, 4, 4))
    assert evaluate([found], [truth], iou=0.4).area[0] == 0
    assert evaluate([found], [truth], iou=0.4, corners="inclusive").area[0] == 1


def loop_reference(case, iou, longer):
    """The rules once more: one detection after the other, precision and recall as arrays; {label: (all, eleven)}."""
    answers = {}
    for label in range(case.classes):
        entries, claimed, number = [], set(), 0
        for image, (found, target) in enumerate(zip(case.detections, case.targets)):
            outside = target.difficult | target.crowd
            number += int(((target.labels == label) & ~outside).sum())
            for box, score, one in zip(found.boxes.numpy().astype(float), found.scores.tolist(), found.labels.tolist()):
                if one == label:
                    entries.append((score, image, box))
        entries.sort(key=lambda entry: -entry[0])  # stable
        right = []
        for _, image, box in entries:
            target, best, choice = case.targets[image], -1.0, None
            for i in np.flatnonzero(target.labels == label):
                other = target.boxes[i].astype(float)
                sides = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2]) + longer
                areas = [np.prod(b[2:] - b[:2] + longer) for b in (box, other)]
                shared = np.prod(sides) if (sides > 0).all() else 0.0
                if shared > 0 and shared / (sum(areas) - shared) > best:
                    best, choice = shared / (sum(areas) - shared), i
            if choice is None or best < iou:
                right.append(False)
            elif not (target.difficult | target.crowd)[choice]:
                right.append((image, choice) not in claimed)
                claimed.add((image, choice))
        answers[label] = curve_figures(np.array(right, bool), number)
    return answers


def curve_figures(right, number):
    if not number:
        return math.nan, math.nan
    recall, precision = np.cumsum(right) / number, np.cumsum(right) / np.arange(1, len(right) + 1)
    eleven = sum(precision[recall >= k / 10].max(initial=0) for k in range(11)) / 11
    edges, heights = np.append(0, recall), [precision[i:].max() for i in range(len(right))]
    return float(np.sum(np.diff(edges) * heights)), eleven


@pytest.mark.parametrize("longer", [0, 1])
def test_random_cases_equal_a_loop(longer):
    rng = np.random.default_rng(longer)
    for seed in range(60):
        case = random_case(seed)
        for target in case.targets:
            target.difficult[:] = rng.random(len(target)) < 0.2
        iou = float(rng.choice([0.3, 0.5, 0.75]))
        metric = VocAP(case.classes, iou=iou, corners="inclusive" if longer else "continuous")
        for i in rng.permutation(case.images):
            metric.update([case.detections[i]], [case.targets[i]])
        result = metric.compute()
        for label, expected in loop_reference(case, iou, longer).items():
            got = (result.area[label], result.eleven_point[label])
            np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12, err_msg=f"seed {seed}")


def test_masks_and_empty_ones():
    case = random_case(2, "segm", images=4)
    metric = VocAP(case.classes, "segm")
    metric.update(case.detections, case.targets)
    assert np.nanmax(metric.compute().area) > 0
    metric.reset()
    assert metric.compute().to_dict()["AP"] is None
    assert VocAP(1).compute().to_dict()["AP"] is None
    assert evaluate([found_at()], [truth_at((0, 0, 9, 9))]).area[0] == 0


def test_tables():
    result = evaluate([found_at((0.9, 0, 0, 9, 9))], [truth_at((0, 0, 9, 9))], classes=("cell", "dust"))
    assert "AP_11_point" in result.table()
    assert re.search("protocol +voc\n.*\ncorners +continuous", result.table())
    assert result.table("markdown").startswith("| metric")
    assert "cell,1.0,1.0,1,1,0" in result.table("csv")
    assert json.loads(result.table("json"))["per_class"]["dust"]["AP"] is None


@pytest.mark.parametrize("options", [{"iou": 0.0}, {"corners": "both"}, {"kind": "boxes"}])
def test_bad_options_are_named(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}.*expected"):
        VocAP(1, **options)
