"""COCO AP: arrays equal to pycocotools bit for bit, and the rules one by one."""

import json
import math

import numpy as np
import pytest
import torch
from coco_oracle import SIDE, coco_files, pycocotools_arrays, random_case, run_lengths
from hypothesis import given, settings
from hypothesis import strategies as st

from vision.metrics import DetectionAP, DetectionOptions, DetectionScore, RandScore, SurfaceDistance, VocAP, overlap
from vision.metrics.average_precision import envelope
from vision.structures import ClassMap, Detections, Target

NAMES = ("precision", "recall", "scores")


def assert_equals_pycocotools(seed, kind, device="cpu"):
    case = random_case(seed, kind)
    limits = (1, 3, 100) if seed % 2 else (2, 10)
    metric = DetectionAP(case.classes, kind, limits)
    for i in np.random.default_rng(seed).permutation(case.images):  # the order of updates must not matter
        metric.update([case.detections[i].to(device)], [case.targets[i]])
    result = metric.compute()
    expected = pycocotools_arrays(coco_files(case.annotations, case.images, case.classes), case.results, kind, limits)
    for name in NAMES:
        np.testing.assert_array_equal(getattr(result, name), expected[name], err_msg=f"{name}, seed {seed}")


@pytest.mark.parametrize("part", range(4))
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_boxes_equal_pycocotools(part, seed):
    assert_equals_pycocotools(seed, "bbox")


@pytest.mark.parametrize("part", range(5))
@settings(max_examples=16, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_masks_equal_pycocotools(part, seed):
    assert_equals_pycocotools(seed, "segm")


@pytest.mark.slow
@settings(max_examples=3000, deadline=None)
@given(st.integers(0, 10**9), st.sampled_from(["bbox", "segm"]))
def test_thousands_of_cases_equal_pycocotools(seed, kind):
    assert_equals_pycocotools(seed, kind)


@pytest.mark.slow
@settings(max_examples=3000, deadline=None)
@given(st.integers(0, 10**9), st.sampled_from(["bbox", "segm"]))
def test_thousands_of_cases_equal_faster_coco_eval(seed, kind):
    assert_equals_faster_coco_eval(random_case(seed, kind), kind)


def assert_equals_faster_coco_eval(case, kind):
    from faster_coco_eval import COCO, COCOeval_faster

    if not (case.annotations and case.results):
        return  # it does not load empty lists
    metric = DetectionAP(case.classes, kind)
    metric.update(case.detections, case.targets)
    result = metric.compute()
    truth = COCO(coco_files(case.annotations, case.images, case.classes))
    peer = COCOeval_faster(truth, truth.loadRes([dict(one) for one in case.results]), kind)
    peer.evaluate()
    peer.accumulate()
    for name in ("precision", "recall"):
        ours = np.nan_to_num(getattr(result, name), nan=-1)
        np.testing.assert_allclose(peer.eval[name], ours, rtol=0, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("kind", ["bbox", "segm", "boundary"])
@pytest.mark.parametrize("at_once", [1, 7])
def test_pairs_in_parts_give_the_same(kind, at_once, monkeypatch):
    case = random_case(5, "bbox" if kind == "bbox" else "segm", images=8)
    metric = DetectionAP(case.classes, kind)
    metric.update(case.detections, case.targets)
    whole = metric.compute()
    monkeypatch.setattr(overlap, "_PAIRS", at_once)
    parts = metric.compute()
    for name in NAMES:
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))


@pytest.mark.parametrize("at_once", [1, 7, 100])
def test_pairs_come_in_parts_of_bounded_size(at_once, monkeypatch):
    monkeypatch.setattr(overlap, "_PAIRS", at_once)
    found, truth = torch.tensor([2, 0, 1, 1, 9, 2]), torch.tensor([0, 0, 0, 1, 2, 2])  # 2 + 3 + 1 + 1 + 0 + 2 pairs
    parts = list(overlap.candidate_pairs(found, truth))
    assert max(len(first) for first, _ in parts) <= at_once + 2  # no detection is cut in two
    pairs = [pair for first, second in parts for pair in zip(first.tolist(), second.tolist())]
    assert pairs == [(d, t) for d in range(6) for t in range(6) if found[d] == truth[t]]


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_every_device_equals_pycocotools(kind, device):
    for seed in range(4):
        assert_equals_pycocotools(seed, kind, device)


@pytest.mark.parametrize(("kind", "seed"), [("bbox", 5), ("segm", 6)])
def test_many_images_equal_pycocotools_and_faster_coco_eval(kind, seed):
    case = random_case(seed, kind, images=60)
    metric = DetectionAP(case.classes, kind)
    metric.update(case.detections, case.targets)
    result = metric.compute()
    content = coco_files(case.annotations, case.images, case.classes)
    expected = pycocotools_arrays(content, case.results, kind)
    for name in NAMES:
        np.testing.assert_array_equal(getattr(result, name), expected[name])
    assert_equals_faster_coco_eval(case, kind)


@pytest.mark.parametrize(
    ("detections", "share"), [(1000, 0.3), (2_500_000, 0.15), (5_000_000, 0.05), (9_000_000, 0.02)]
)
def test_envelope_of_millions_of_detections_equals_the_running_maximum(detections, share):
    chance = np.linspace(2 * share, 0, detections)  # hits thin out, as they do by falling score
    total = np.flatnonzero(np.random.default_rng(0).random(detections) < chance) + 1
    hits = np.arange(1, len(total) + 1)
    expected = np.maximum.accumulate((hits / (total + np.spacing(1)))[::-1])[::-1]
    found = envelope(torch.from_numpy(hits), torch.from_numpy(total), torch.zeros(len(hits), dtype=torch.int64))
    np.testing.assert_array_equal(found.numpy(), expected)


def boxes_at(*corners, score=None, label=0):
    boxes = torch.tensor(corners, dtype=torch.float32).reshape(-1, 4)
    scores = torch.tensor(score if score is not None else [0.5] * len(boxes))
    return Detections(boxes, scores, torch.full((len(boxes),), label))


def truth_at(*corners, label=0, **others):
    return Target(np.array(corners, np.float32).reshape(-1, 4), np.full(len(corners), label), **others)


def evaluate(detections, targets, classes=1, **options):
    metric = DetectionAP(classes, **options)
    metric.update(detections, targets)
    return metric.compute()


def test_perfect_single_box_by_hand():
    # one hit of one: recall 1, precision 1 / (1 + 2.2e-16)
    figures = evaluate([boxes_at([0, 0, 10, 10])], [truth_at([0, 0, 10, 10])]).to_dict()
    assert figures["AP"] == pytest.approx(1, abs=1e-12)
    assert figures["AP_small"] == pytest.approx(1, abs=1e-12)
    assert figures["AP_large"] is None  # no large ground truth: undefined, never -1, 0 or NaN
    assert figures["AR_1"] == 1


def test_precision_by_hand():
    # by score: hit, miss, hit; 2 ground truths. Precision at recall <= 1/2 is 1, beyond 2/3: 51 and 50 recall points
    found = boxes_at([0, 0, 10, 10], [50, 50, 60, 60], [20, 20, 30, 30], score=[0.9, 0.8, 0.7])
    result = evaluate([found], [truth_at([0, 0, 10, 10], [20, 20, 30, 30])])
    assert result.average_precision(0.5) == pytest.approx((51 + 50 * 2 / 3) / 101, abs=1e-12)


def test_false_positives_on_an_image_without_objects_count():
    good = boxes_at([0, 0, 10, 10], score=[0.5])
    alarm = boxes_at([0, 0, 10, 10], score=[0.9])
    alone = evaluate([good], [truth_at([0, 0, 10, 10], image_id=0)]).to_dict()
    both = evaluate([good, alarm], [truth_at([0, 0, 10, 10], image_id=0), truth_at(image_id=1)]).to_dict()
    assert both["AP"] == pytest.approx(alone["AP"] / 2, abs=1e-9)


def test_nothing_anywhere_is_undefined():
    figures = evaluate([boxes_at()], [truth_at()], classes=2).to_dict()
    assert figures["AP"] is None
    assert figures["classes_left_out"] == 2
    assert DetectionAP(1).compute().to_dict()["AP"] is None
    assert DetectionAP(1, "segm").compute().to_dict()["AP"] is None
    json.dumps(figures, allow_nan=False)


def test_class_without_truth_is_left_out_and_class_without_detections_scores_zero():
    found = boxes_at([0, 0, 10, 10], label=2)
    target = Target(np.array([[0, 0, 10, 10], [0, 0, 5, 5]], np.float32), np.array([2, 0]))
    figures = evaluate([found], [target], classes=("seen", "absent", "hit")).to_dict()
    rows = figures["per_class"]
    assert rows["absent"]["AP"] is None
    assert rows["seen"]["AP"] == 0
    assert rows["hit"]["AP"] == pytest.approx(1)
    assert figures["AP"] == pytest.approx(0.5)
    assert figures["classes_left_out"] == 1


def test_only_crowds_is_undefined():
    figures = evaluate([boxes_at([0, 0, 9, 9])], [truth_at([0, 0, 10, 10], crowd=[True])]).to_dict()
    assert figures["AP"] is None


def test_a_crowd_takes_any_number():
    # three detections inside the crowd are neither hits nor false alarms
    found = boxes_at([0, 0, 10, 10], *[[50, 50, 60, 60 + i] for i in range(3)], score=[0.1, 0.9, 0.8, 0.7])
    target = truth_at([0, 0, 10, 10], [40, 40, 90, 90], crowd=[False, True])
    assert evaluate([found], [target]).to_dict()["AP"] == pytest.approx(1)


def test_more_detections_than_the_limit():
    found = boxes_at(*[[50, 50, 60, 60]] * 100, [0, 0, 10, 10], score=[0.9] * 100 + [0.5])
    target = truth_at([0, 0, 10, 10])
    assert evaluate([found], [target]).to_dict()["AP"] == 0
    # with 101 the hit comes last: precision 1 / 101
    wide = evaluate([found], [target], max_detections=(1, 10, 101)).to_dict()
    assert wide["AP"] == pytest.approx(1 / 101)
    assert wide["AR_101"] == 1


def test_ties_in_score_keep_their_order():
    hit, miss = [0, 0, 10, 10], [50, 50, 60, 60]
    first = evaluate([boxes_at(hit, miss)], [truth_at(hit)])
    second = evaluate([boxes_at(miss, hit)], [truth_at(hit)])
    assert first.average_precision() == pytest.approx(1)
    assert second.average_precision() == pytest.approx(0.5)


def test_boxes_of_zero_area_match_nothing():
    figures = evaluate([boxes_at([5, 5, 5, 5])], [truth_at([5, 5, 5, 5])]).to_dict()
    assert figures["AP"] == 0


def test_masks_as_run_lengths_equal_bitmaps():
    case = random_case(11, "segm", images=6)
    dense, packed = DetectionAP(case.classes, "segm"), DetectionAP(case.classes, "segm")
    dense.update(case.detections, case.targets)
    for found, target in zip(case.detections, case.targets):
        rle = [run_lengths(mask) for mask in found.masks.numpy()]
        uncompressed = [{"size": [SIDE, SIDE], "counts": _uncompressed(mask)} for mask in target.masks]
        object.__setattr__(target, "masks", uncompressed)
        packed.update([Detections(found.boxes, found.scores, found.labels, rle)], [target])
    for name in NAMES:
        np.testing.assert_array_equal(getattr(packed.compute(), name), getattr(dense.compute(), name))


def _uncompressed(mask):
    flat = np.concatenate([[0], mask.T.ravel().astype(int), [2]])
    ends = np.flatnonzero(np.diff(flat))
    counts = np.diff(np.concatenate([[0], ends])).tolist()
    return counts if not mask.T.ravel()[0] else [0, *counts[1:]]


def test_merge_equals_one_metric():
    case = random_case(3, images=6)
    whole, left, right = (DetectionAP(case.classes) for _ in range(3))
    whole.update(case.detections, case.targets)
    left.update(case.detections[3:], case.targets[3:])
    right.update(case.detections[:3], case.targets[:3])
    left.merge(right)
    for name in NAMES:
        np.testing.assert_array_equal(getattr(left.compute(), name), getattr(whole.compute(), name))
    left.reset()
    assert math.isnan(left.compute().average_precision())


def test_tables():
    result = evaluate([boxes_at([0, 0, 10, 10])], [truth_at([0, 0, 10, 10])], classes=ClassMap(("cell",)))
    assert "AP50" in result.table()
    assert result.table("markdown").startswith("| metric")
    assert "cell,1.0" in result.table("csv") or "cell,0.99" in result.table("csv")
    assert json.loads(result.table("json"))["AP_large"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [({"kind": "boxes"}, "kind"), ({"max_detections": ()}, "max_detections"), ({"ious": (0.0,)}, "thresholds")],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        DetectionAP(1, **options)


def test_bad_updates_are_named():
    with pytest.raises(ValueError, match="1 images but targets of 0"):
        DetectionAP(1).update([boxes_at()], [])
    with pytest.raises(ValueError, match="needs masks"):
        DetectionAP(1, "segm").update([boxes_at([0, 0, 1, 1])], [truth_at()])


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        (DetectionAP(1), DetectionAP(2), r"DetectionAP.merge: 2 classes .* expected the same 1"),
        (DetectionAP(1), DetectionAP(1, "segm"), "kind 'segm'; expected 'bbox'"),
        (DetectionAP(1), DetectionAP(1, ious=[0.5]), r"ious \(0.5,\); expected"),
        (DetectionAP(1), DetectionAP(1, max_detections=(1, 10, 300)), "max_detections"),
        (DetectionAP(1), VocAP(1), "DetectionAP.merge: a VocAP; expected a DetectionAP"),
        (VocAP(1), VocAP(1, corners="inclusive"), "VocAP.merge: corners 'inclusive'; expected 'continuous'"),
        (DetectionScore(1), DetectionScore(1, DetectionOptions(protocol="voc")), "DetectionScore.merge: options"),
        (RandScore(1), SurfaceDistance(1), "RandScore.merge: a SurfaceDistance; expected a RandScore"),
    ],
)
def test_metrics_of_other_settings_do_not_merge(one, other, message):
    with pytest.raises(ValueError, match=message):
        one.merge(other)
