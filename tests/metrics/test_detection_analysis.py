"""Precision-recall curves and F1, the confusion matrix of detections, and TIDE's error shares: by hand and by loops."""

import json
import math

import numpy as np
import pytest
import torch
from coco_oracle import random_case

from vision.metrics import DetectionAP, DetectionOptions, DetectionScore
from vision.structures import Detections, Target

CLASSES = ("ant", "bee")


def found_at(*rows):
    """Rows: score, label, x, y, width, height."""
    rows = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    boxes = torch.cat([rows[:, 2:4], rows[:, 2:4] + rows[:, 4:]], 1)
    return Detections(boxes, rows[:, 0], rows[:, 1].long())


def truth_at(*rows, **others):
    """Rows: label, x, y, width, height."""
    rows = np.array(rows, np.float32).reshape(-1, 5)
    return Target(np.concatenate([rows[:, 1:3], rows[:, 1:3] + rows[:, 3:]], 1), rows[:, 0].astype(int), **others)


def analyse(found, truth, classes=CLASSES, **options):
    metric = DetectionScore(classes, DetectionOptions(analyse=True, **options))
    metric.update([found] if isinstance(found, Detections) else found, [truth] if isinstance(truth, Target) else truth)
    return metric.compute()


def test_curve_and_best_score_by_hand():
    # ant, 4 objects; by score: hit .9, hit .8, miss .8, hit .6, miss .5. F1 after each: 2/5, -, 4/7, 6/8, 6/9
    # (.8 twice: a threshold takes both or none, so the 4/6 between them cannot be had); best 3/4 at .6
    objects = [(0, 30 * i, 0, 10, 10) for i in range(4)]
    rows = [(0.9, 0, 0, 0, 10, 10), (0.8, 0, 30, 0, 10, 10), (0.8, 0, 0, 50, 10, 10), (0.6, 0, 60, 0, 10, 10)]
    result = analyse(found_at(*rows, (0.5, 0, 0, 70, 10, 10)), truth_at(*objects)).curves
    curve = result.curve(0)
    np.testing.assert_allclose(curve["precision"], [1, 1, 2 / 3, 3 / 4, 3 / 5])
    np.testing.assert_allclose(curve["recall"], [1 / 4, 2 / 4, 2 / 4, 3 / 4, 3 / 4])
    np.testing.assert_allclose(curve["F1"], [2 / 5, 4 / 6, 4 / 7, 6 / 8, 6 / 9])
    best = result.best()
    assert [best[name][0] for name in ("F1", "precision", "recall")] == [0.75, 0.75, 0.75]
    assert best["score"][0] == pytest.approx(0.6)
    row = result.to_dict()["by_IoU"]["0.50"]
    assert row["F1"] == 0.75 and row["classes_left_out"] == 1  # no bee anywhere: undefined
    assert row["per_class"]["bee"]["F1"] is None
    assert result.curve(1)["precision"].shape == (0,)
    with pytest.raises(ValueError, match=r"no curves at IoU 0\.3"):
        result.best(0.3)


def test_classes_without_an_object_are_counted_under_each_table():
    result = analyse(found_at((0.9, 0, 0, 0, 9, 9)), truth_at((0, 0, 0, 9, 9)))
    for part in (result.curves, result.errors):
        assert part.table().endswith("classes left out of means: 1")
        assert part.table("csv").count("left out") == 0
    assert result.errors.to_dict()["classes_left_out"] == 1
    both = analyse(found_at((0.9, 0, 0, 0, 9, 9)), truth_at((0, 0, 0, 9, 9), (1, 0, 0, 9, 9)))
    assert "left out" not in both.curves.table() + both.errors.table()


def test_f1_without_a_hit_is_zero_and_has_no_best_score():
    best = analyse(found_at((0.9, 0, 50, 50, 5, 5)), truth_at((0, 0, 0, 9, 9), (1, 0, 0, 9, 9))).curves.best()
    assert best["F1"].tolist() == [0, 0] and best["recall"].tolist() == [0, 0]
    assert np.isnan(best["score"]).all() and np.isnan(best["precision"]).all()


@pytest.mark.parametrize("seed", range(6))
def test_curves_and_errors_agree_with_average_precision(seed, device):
    case = random_case(seed, images=8)
    options = DetectionOptions(analyse=True, max_detections=(1, 4, 9))
    metric = DetectionScore(case.classes, options)
    metric.update([one.to(device) for one in case.detections], case.targets)
    result = metric.compute()
    for i, iou in enumerate(result.curves.ious):
        expected = result.figures.precision[i, :, :, 0, -1]
        np.testing.assert_array_equal(result.curves.precision_at_recalls(iou), expected)
    assert result.errors.average_precision == pytest.approx(result.figures.average_precision(0.5), nan_ok=True)


def test_best_f1_equals_trying_every_score():
    for seed in range(8):
        case = random_case(seed, images=6)
        targets = [target.select(~target.crowd) for target in case.targets]
        best = analyse(case.detections, targets, case.classes).curves.best()
        for label in range(case.classes):
            number = sum(int((target.labels == label).sum()) for target in targets)
            tried = {}
            for score in np.arange(8) / 8:
                kept = [one.select((one.scores >= score) & (one.labels == label)) for one in case.detections]
                metric = DetectionAP(case.classes)
                metric.update(kept, targets)
                hits = metric.compute().recall[0, label, 0, -1] * number
                tried[score] = 2 * hits / (number + sum(map(len, kept))) if number else math.nan
            assert best["F1"][label] == pytest.approx(max(tried.values()), nan_ok=True)
            if number and best["F1"][label]:
                assert tried[best["score"][label]] == pytest.approx(best["F1"][label])


def test_confusion_by_hand():
    # objects: ant, bee, bee; a bee on the ant, a bee on the first bee and one more there, an ant on nothing, and a
    # bee below the score; the last bee is missed
    truth = truth_at((0, 0, 0, 10, 10), (1, 30, 0, 10, 10), (1, 60, 0, 10, 10))
    rows = [(0.9, 1, 0, 0, 10, 10), (0.8, 1, 30, 0, 10, 10), (0.7, 1, 30, 1, 10, 10), (0.6, 0, 0, 50, 10, 10)]
    result = analyse(found_at(*rows, (0.2, 1, 60, 0, 10, 10)), truth).confusion
    assert result.matrix.tolist() == [[0, 1, 0], [0, 1, 1], [1, 1, 0]]
    content = result.to_dict()
    assert content["columns"][-1] == "missed" and content["rows"][-1] == "false alarm"
    bee = {"right": 1, "confused": 0, "missed": 1, "false_alarms": 1, "recall": 0.5, "precision": pytest.approx(1 / 3)}
    assert content["per_class"]["bee"] == bee
    assert result.table("csv").splitlines()[-1] == "false alarm,1,1,0"


def test_confusion_at_a_crowd():
    # ants in a crowd of ants are left out, a bee there is a false alarm; the crowd itself is not missed
    truth = truth_at((0, 0, 0, 40, 40), crowd=[True])
    result = analyse(found_at((0.9, 0, 1, 1, 5, 5), (0.9, 0, 9, 9, 5, 5), (0.9, 1, 20, 20, 5, 5)), truth)
    assert result.confusion.matrix.tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 0]]
    assert result.errors.counts[:, 1].tolist() == [0, 0, 0, 0, 1, 0]


def test_confusion_equals_a_loop():
    for seed in range(20):
        case = random_case(seed)
        targets = [target.select(~target.crowd) for target in case.targets]
        number = case.classes
        expected = np.zeros((number + 1, number + 1), int)
        for found, target in zip(case.detections, targets):
            free = dict.fromkeys(range(len(target)))
            for i in np.argsort(-found.scores.numpy(), kind="stable"):
                if found.scores[i] < 0.25:
                    continue
                ious = {g: box_iou(found.boxes[i].numpy(), target.boxes[g]) for g in free}
                best = max(ious, key=lambda g: (ious[g], g), default=None)
                if best is None or ious[best] < 0.5:
                    expected[-1, found.labels[i]] += 1
                else:
                    expected[target.labels[best], found.labels[i]] += 1
                    del free[best]
            for g in free:
                expected[target.labels[g], -1] += 1
        np.testing.assert_array_equal(analyse(case.detections, targets, number).confusion.matrix, expected)


def box_iou(a, b):
    a, b = a.astype(float), b.astype(float)
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    shared = sides.prod() if (sides > 0).all() else 0.0
    return shared / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared) if shared else 0.0


def test_each_error_by_hand():
    # one of each, each in an image of its own, ants only unless said
    cases = {
        "classification": (found_at((0.9, 1, 0, 0, 10, 10)), truth_at((0, 0, 0, 10, 10))),  # bee on an ant
        "localisation": (found_at((0.9, 0, 0, 5, 10, 10)), truth_at((0, 0, 0, 10, 10))),  # IoU 1/3
        "both": (found_at((0.9, 1, 0, 5, 10, 10)), truth_at((0, 0, 0, 10, 10))),  # bee, IoU 1/3: the ant is missed too
        "duplicate": (found_at((0.9, 0, 0, 0, 9, 9), (0.8, 0, 0, 0, 9, 9)), truth_at((0, 0, 0, 9, 9))),
        "background": (found_at((0.9, 0, 0, 9, 10, 10)), truth_at((0, 0, 0, 10, 10))),  # IoU 1/19: missed as well
        "missed": (found_at(), truth_at((0, 0, 0, 10, 10))),
    }
    for name, (found, truth) in cases.items():
        errors = analyse(found, truth).errors.to_dict()["errors"]
        counted = {error for error in list(cases) if errors[error]["count"]}
        assert counted == ({name, "missed"} if name in ("both", "background") else {name})
    together = analyse([one[0] for one in cases.values()], [one[1] for one in cases.values()]).errors
    assert together.counts.sum(1).tolist() == [1, 1, 1, 1, 1, 3]
    assert together.counts[:, 0].tolist() == [0, 1, 0, 1, 1, 3]
    assert sum(row["share"] for row in list(together.to_dict()["errors"].values())[:6]) == pytest.approx(1)


def test_what_fixing_gives_by_hand():
    # ants: 2 objects; by score: a duplicate cannot be (first): hit .9, background .8, bad place (IoU 1/3) .7.
    # AP: 51 recall points of 101 at precision 1, none beyond -> 51/101
    truth = truth_at((0, 0, 0, 10, 10), (0, 40, 0, 10, 10))
    rows = [(0.9, 0, 0, 0, 10, 10), (0.8, 0, 0, 80, 10, 10), (0.7, 0, 40, 5, 10, 10)]
    result = analyse(found_at(*rows), truth, ("ant",)).errors
    assert result.average_precision == pytest.approx(51 / 101)
    fixed = result.fixed
    assert fixed["localisation"] == pytest.approx((51 + 50 * 2 / 3) / 101)  # hit, miss, hit
    assert fixed["background"] == pytest.approx(51 / 101)  # the hit comes first anyway
    assert fixed["missed"] == pytest.approx(51 / 101)  # the second object is a matter of place, not missed
    assert fixed["false_positives"] == pytest.approx(51 / 101)
    assert fixed["false_negatives"] == pytest.approx(1)
    assert result.to_dict()["errors"]["localisation"]["dAP"] == pytest.approx(50 * 2 / 3 / 101)


def test_wrong_classes_are_put_right():
    # an ant and a bee, and two bees on the ant: the higher one becomes the ant's hit, the lower one goes
    truth = truth_at((0, 0, 0, 10, 10), (1, 40, 0, 10, 10))
    rows = [(0.9, 1, 0, 0, 10, 10), (0.8, 1, 0, 0, 10, 9), (0.7, 1, 40, 0, 10, 10)]
    result = analyse(found_at(*rows), truth).errors
    assert result.average_precision == pytest.approx((0 + 1 / 3) / 2)  # bees: miss, miss, hit
    assert result.fixed["classification"] == pytest.approx(1)
    assert result.fixed["false_positives"] == pytest.approx(1 / 2)
    # with a hit on the ant already, wrong ones are only taken away
    result = analyse(found_at(*rows, (0.1, 0, 0, 0, 10, 10)), truth).errors
    assert result.fixed["classification"] == pytest.approx(1)
    assert result.counts[0].tolist() == [0, 2]


def test_missed_objects_are_no_longer_expected():
    # 2 ants, one hit, one missed; a bee missed: AP (51/101 + 0) / 2; without the missed, bees are undefined
    truth = truth_at((0, 0, 0, 10, 10), (0, 40, 0, 10, 10), (1, 80, 0, 10, 10))
    result = analyse(found_at((0.9, 0, 0, 0, 10, 10)), truth).errors
    assert result.average_precision == pytest.approx(51 / 202)
    assert result.fixed["missed"] == pytest.approx(1)


def test_nothing_at_all():
    result = analyse(found_at(), truth_at())
    content = json.loads(result.table("json"))
    assert content["AP"] is None and content["errors"]["AP"] is None
    assert content["errors"]["errors"]["missed"] == {"count": 0, "share": None, "AP_fixed": None, "dAP": None}
    assert content["confusion"]["matrix"] == [[0, 0, 0]] * 3
    json.dumps(result.to_dict(), allow_nan=False)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_tables_and_masks(kind):
    case = random_case(5, kind, images=6)
    result = analyse(case.detections, case.targets, case.classes, kind=kind)
    for words in ("at score", "missed", "dAP", "AP50"):
        assert words in result.table() and words in result.table("markdown") and words in result.table("csv")
    json.dumps(result.to_dict(), allow_nan=False)
    assert result.errors.counts.sum() > 0


@pytest.mark.parametrize("limits", [(), (0,), (-1, 5), (1.5,)])
def test_limits_that_count_nothing_are_refused(limits):
    with pytest.raises(
        ValueError, match=r"DetectionOptions: max_detections \(.*\); expected whole numbers of 1 or more"
    ):
        DetectionOptions(max_detections=limits)


def test_labels_outside_of_the_classes_are_refused():
    case = random_case(8, images=5)
    with pytest.raises(ValueError, match=r"DetectionScore.update: labels from 0 to \d; expected 0 to 0"):
        DetectionScore(1, DetectionOptions()).update(case.detections, case.targets)
