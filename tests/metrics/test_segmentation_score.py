"""Confusion-matrix scores against scikit-learn and hand-derived values."""

import json

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics

from vision.metrics import SegmentationScore, confusion, confusion_matrix


def score_of(predicted, truth, classes, **options):
    score = SegmentationScore(classes, **options)
    score.update(torch.as_tensor(predicted), torch.as_tensor(truth))
    return score.compute()


def test_by_hand():
    # truth a a a b, predicted a a b b: IoU a = 2/3, b = 1/2; Dice 4/5, 2/3; accuracy 2/3, 1; FWIoU = 3/4 2/3 + 1/4 1/2
    figures = score_of([[0, 0, 1, 1]], [[0, 0, 0, 1]], ("a", "b")).to_dict()
    assert figures["pixel_accuracy"] == 0.75
    assert figures["mIoU"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert figures["mean_dice"] == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert figures["mean_accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    assert figures["FWIoU"] == pytest.approx(0.75 * 2 / 3 + 0.25 / 2)
    assert figures["per_class"]["b"] == pytest.approx(
        {"IoU": 0.5, "dice": 2 / 3, "accuracy": 1, "precision": 0.5, "recall": 1}
    )


@pytest.mark.parametrize("classes", [2, 7, 200])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("on_host", [True, False])
def test_equals_scikit_learn(classes, dtype, on_host, device, monkeypatch):
    if not on_host:  # as on a GPU
        monkeypatch.setattr(confusion, "_counts_on_host", confusion._counts_by_codes)
    rng = np.random.default_rng(classes)
    truth, predicted = rng.integers(0, classes, (2, 3, 31, 17))
    truth[rng.random(truth.shape) < 0.1] = 255
    both = [torch.as_tensor(x).to(dtype).to(device) for x in (predicted, truth)]
    result = score_of(*both, classes)
    kept = truth != 255
    labels = list(range(classes))
    matrix = sklearn_metrics.confusion_matrix(truth[kept], predicted[kept], labels=labels)
    np.testing.assert_array_equal(result.matrix[:, :-1], matrix)
    jaccard = sklearn_metrics.jaccard_score(truth[kept], predicted[kept], labels=labels, average=None)
    f1 = sklearn_metrics.f1_score(truth[kept], predicted[kept], labels=labels, average=None)
    seen = np.isin(labels, np.concatenate([truth[kept], predicted[kept]]))
    np.testing.assert_allclose(result.figures["IoU"][seen], jaccard[seen], atol=1e-12)
    np.testing.assert_allclose(result.figures["dice"][seen], f1[seen], atol=1e-12)
    for name in ("precision", "recall"):
        function = getattr(sklearn_metrics, f"{name}_score")
        values = function(truth[kept], predicted[kept], labels=labels, average=None, zero_division=np.nan)
        np.testing.assert_allclose(result.figures[name], values, atol=1e-12)
    accuracy = sklearn_metrics.accuracy_score(truth[kept], predicted[kept])
    assert result.figures["pixel_accuracy"] == pytest.approx(accuracy, abs=1e-12)
    if np.isin(labels, truth[kept]).all():
        balanced = sklearn_metrics.balanced_accuracy_score(truth[kept], predicted[kept])
        assert result.figures["mean_accuracy"] == pytest.approx(balanced, abs=1e-12)
    weighted = sklearn_metrics.jaccard_score(truth[kept], predicted[kept], labels=labels, average="weighted")
    assert result.figures["FWIoU"] == pytest.approx(weighted, abs=1e-12)


@pytest.mark.parametrize("on_host", [True, False])
@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64])
def test_values_far_outside_of_the_classes(dtype, on_host, monkeypatch):
    if not on_host:
        monkeypatch.setattr(confusion, "_counts_on_host", confusion._counts_by_codes)
    end = torch.iinfo(dtype)
    odd = torch.tensor([end.min, -1, 2, 3, end.max, max(2, end.max - 255)], dtype=dtype)  # some end in a zero byte
    fine = torch.tensor([0, 0, 1, 1, 1, 0], dtype=dtype)
    assert confusion_matrix(odd, fine, 2).tolist() == [[0, 0, 3], [0, 0, 3]]
    assert confusion_matrix(fine, odd, 2).sum() == 0


def test_counts_of_many_pixels_are_whole(monkeypatch):
    monkeypatch.setattr(confusion, "_AT_ONCE", 7)  # several pieces, the last one shorter
    truth, predicted = torch.randint(0, 3, (2, 5, 9), generator=torch.Generator().manual_seed(0))
    expected = sklearn_metrics.confusion_matrix(truth.flatten(), predicted.flatten())
    np.testing.assert_array_equal(confusion_matrix(predicted, truth, 3)[:, :-1], expected)


def test_class_in_neither_is_left_out_and_counted():
    figures = score_of([[0, 0]], [[0, 0]], ("here", "nowhere")).to_dict()
    assert figures["mIoU"] == 1
    assert figures["per_class"]["nowhere"]["IoU"] is None
    assert figures["classes_without_IoU"] == 1


def test_class_predicted_only_scores_zero():
    figures = score_of([[0, 1]], [[0, 0]], 2).to_dict()
    assert figures["per_class"]["class 1"]["IoU"] == 0
    assert figures["per_class"]["class 1"]["accuracy"] is None


def test_predicting_the_ignore_label_is_wrong_not_ignored():
    assert score_of([[0, 255]], [[0, 0]], 1).to_dict()["mIoU"] == 0.5


def test_nothing_counted_is_undefined():
    figures = score_of([[0, 1]], [[255, 255]], 2).to_dict()
    assert figures["mIoU"] is None
    assert figures["pixel_accuracy"] is None
    assert figures["FWIoU"] is None
    json.dumps(figures, allow_nan=False)
    assert SegmentationScore(3).compute().to_dict()["mIoU"] is None


@pytest.mark.parametrize("ignore", [0, 2])
def test_ignore_inside_the_classes_is_no_class(ignore):
    from torchmetrics.functional.classification import multiclass_jaccard_index, multiclass_precision

    generator = torch.Generator().manual_seed(0)
    predicted, truth = torch.randint(0, 4, (2, 3, 9, 8), generator=generator)
    figures = score_of(predicted, truth, 4, ignore=ignore).to_dict()
    # predictions of the ignored class are wrong, and cost no class of their own
    expected = multiclass_jaccard_index(predicted, truth, 4, ignore_index=ignore)
    assert figures["mIoU"] == pytest.approx(expected.item(), abs=1e-6)
    row = figures["per_class"][f"class {ignore}"]
    assert set(row.values()) == {None}
    assert figures["classes_without_IoU"] == 1
    each = multiclass_precision(predicted, truth, 4, average=None, ignore_index=ignore)
    for label in {0, 1, 2, 3} - {ignore}:
        assert figures["per_class"][f"class {label}"]["precision"] == pytest.approx(each[label].item(), abs=1e-6)
    assert score_of([[0, 1, 1]], [[0, 0, 1]], 2, ignore=0).to_dict()["pixel_accuracy"] == 1


def test_merge_reset_and_tables():
    left, right = SegmentationScore(2), SegmentationScore(2)
    left.update(torch.tensor([[0, 1]]), torch.tensor([[0, 0]]))
    right.update(torch.tensor([[1, 1]]), torch.tensor([[1, 0]]))
    left.merge(right)
    assert left.compute().matrix.tolist() == [[1, 2, 0], [0, 1, 0]]
    assert "mIoU" in left.compute().table("markdown")
    left.reset()
    assert left.matrix.sum() == 0


def test_shapes_that_differ_are_named():
    with pytest.raises(ValueError, match=r"\(1, 2\) but truth \(1, 3\)"):
        confusion_matrix(torch.zeros(1, 2), torch.zeros(1, 3), 2)


def test_per_image_by_hand():
    # image 1: class 0 IoU 1/2, class 1 IoU 1/2; image 2: class 0 only, IoU 1: means 3/4, 1/2; of mIoU 1/2 and 1: 3/4
    truth, predicted = torch.tensor([[[0, 0, 1]], [[0, 0, 0]]]), torch.tensor([[[0, 1, 1]], [[0, 0, 0]]])
    per_image, whole = SegmentationScore(2, per_image=True), SegmentationScore(2)
    for score in (per_image, whole):
        score.update(predicted, truth)
    figures = per_image.compute().to_dict()
    assert figures["averaged_over"] == "mean over 2 images"
    assert figures["mIoU"] == 0.75
    rows = figures["per_class"]
    assert [rows[name]["IoU"] for name in rows] == [0.75, 0.5]
    assert [rows[name]["images_without_IoU"] for name in rows] == [0, 1]
    assert "mean over 2 images" in per_image.compute().table()
    assert whole.compute().to_dict()["averaged_over"] == "over the data set"
    assert whole.compute().to_dict()["per_class"]["class 0"]["IoU"] == 0.8
    np.testing.assert_array_equal(per_image.compute().matrix, whole.compute().matrix)
    assert SegmentationScore(2, per_image=True).compute().to_dict()["mIoU"] is None


def test_an_image_without_the_class_is_not_left_out():
    score = SegmentationScore(1, multi_label=True, per_image=True)
    truth = torch.zeros(2, 8, 8, dtype=torch.long)
    truth[0, :2] = 1
    score.update(torch.zeros_like(truth), truth)  # the second: no IoU, but 64 pixels that are right
    figures = score.compute().to_dict()
    assert figures["images_left_out"] == 0
    assert figures["pixel_accuracy"] == (0.75 + 1) / 2


def test_per_image_means_count_the_images_they_leave_out():
    score = SegmentationScore(2, per_image=True)
    score.update(torch.zeros(3, 1, 2).long(), torch.tensor([[[0, 0]], [[255, 255]], [[255, 0]]]))
    figures = score.compute().to_dict()
    assert (figures["mIoU"], figures["images_left_out"]) == (1, 1)
    assert figures["averaged_over"] == "mean over 3 images"
    assert "images_left_out" in score.compute().table()
    assert "images_left_out" not in SegmentationScore(2).compute().to_dict()


@pytest.mark.parametrize("per_image", [False, True])
def test_several_labels_equal_scikit_learn(per_image, device):
    rng = np.random.default_rng(0)
    truth = rng.random((5, 3, 13, 11)) < np.array([0.1, 0.5, 0.9])[:, None, None]
    predicted = np.where(rng.random(truth.shape) < 0.2, ~truth, truth)
    hidden = rng.random(truth.shape) < 0.1
    facts = torch.from_numpy(np.where(hidden, 255, truth)).to(device)
    score = SegmentationScore(3, multi_label=True, per_image=per_image)
    score.update(torch.from_numpy(predicted).to(device), facts)
    figures = score.compute().figures
    names = {"IoU": "jaccard_score", "dice": "f1_score", "precision": "precision_score", "recall": "recall_score"}
    images = [[i] for i in range(5)] if per_image else [list(range(5))]
    for name, function in names.items():
        function = getattr(sklearn_metrics, function)
        for label in range(3):
            cases = [(truth[i, label], predicted[i, label], ~hidden[i, label]) for i in images]
            expected = np.mean([function(fact[kept], guess[kept]) for fact, guess, kept in cases])
            assert figures[name][label] == pytest.approx(expected, abs=1e-12)
    right = np.mean([(truth == predicted)[i][~hidden[i]].mean() for i in images])
    if not per_image:
        counted = score.compute().matrix.sum((1, 2))
        assert counted.tolist() == (~hidden).sum((0, 2, 3)).tolist()
        assert figures["pixel_accuracy"] == pytest.approx(right, abs=1e-12)


def test_binary_masks():
    # 3 true, 3 found, 2 in common: IoU 2/4, Dice 2/3; 4 of 6 answers right
    score = SegmentationScore(("cell",), multi_label=True)
    score.update(torch.tensor([[[1, 1, 1, 0, 0, 0]]]), torch.tensor([[[0, 1, 1, 1, 0, 0]]]))
    figures = score.compute().to_dict()
    assert figures["per_class"]["cell"]["IoU"] == figures["mIoU"] == 0.5
    assert figures["mean_dice"] == pytest.approx(2 / 3)
    assert figures["pixel_accuracy"] == pytest.approx(4 / 6)


@pytest.mark.parametrize("several", [False, True])
def test_average_precision_equals_scikit_learn(several, device):
    rng, bins = np.random.default_rng(0), 32
    scores = rng.random((3, 4, 17, 19)).astype(np.float32)
    truth = rng.integers(0, 3, (3, 17, 19))  # class 3 is nowhere
    if several:
        truth = np.stack([truth == label for label in range(4)], 1).astype(np.int64)
    truth[rng.random(truth.shape) < 0.1] = 255
    score = SegmentationScore(4, multi_label=several, score_bins=bins)
    sides = [torch.from_numpy(one).to(device) for one in (np.zeros_like(truth), truth, scores)]
    for image in range(3):
        score.update(*(side[image : image + 1] for side in sides))
    result = score.compute()
    steps = np.floor(scores * bins) / bins  # many ties
    for label in range(3):
        fact = truth[:, label] if several else truth
        kept = fact != 255
        expected = sklearn_metrics.average_precision_score(
            fact[kept] == (1 if several else label), steps[:, label][kept]
        )
        assert result.figures["average_precision"][label] == pytest.approx(expected, abs=1e-12)
    figures = result.to_dict()
    assert figures["per_class"]["class 3"]["average_precision"] is None
    assert figures["score_bins"] == bins
    assert figures["mean_average_precision"] == pytest.approx(result.figures["average_precision"][:3].mean())


def test_average_precision_merges_and_resets():
    truth, scores = torch.tensor([[[0, 1, 1]]]), torch.tensor([[[[0.9, 0.2, 1.0]], [[0.1, 0.8, 0.0]]]])
    whole, left, right = (SegmentationScore(2, score_bins=16) for _ in range(3))
    whole.update(scores.argmax(1), truth, scores)
    left.update(scores.argmax(1)[..., :1], truth[..., :1], scores[..., :1])
    right.update(scores.argmax(1)[..., 1:], truth[..., 1:], scores[..., 1:])
    left.merge(right)
    expected = whole.compute().figures["average_precision"]
    np.testing.assert_array_equal(left.compute().figures["average_precision"], expected)
    # class 0: one true pixel, second of three by score: 1/2. Class 1: 0.8 first, the other one last: (1 + 2/3) / 2
    np.testing.assert_allclose(expected, [0.5, (1 + 2 / 3) / 2])
    left.reset()
    assert np.isnan(left.compute().figures["average_precision"]).all()


@pytest.mark.parametrize(
    ("options", "update", "message"),
    [
        ({"per_image": True, "score_bins": 8}, None, "leave per_image out"),
        ({"multi_label": True, "ignore": 0}, None, "expected another number"),
        ({"score_bins": 1}, None, "1 bins; expected 2"),
        ({"score_bins": 8}, [torch.zeros(1, 2, 2)] * 2, "no scores"),
        ({"score_bins": 8}, [torch.zeros(1, 2, 2), torch.zeros(1, 2, 2), torch.zeros(1, 3, 2, 2)], "scores"),
        ({}, [torch.zeros(1, 2, 2), torch.zeros(1, 2, 2), torch.zeros(1, 2, 2, 2)], "without score_bins"),
        ({}, [torch.full((1, 2, 2), 0.7), torch.zeros(1, 2, 2).long()], "float32 labels; expected integers"),
        ({}, [torch.zeros(1, 2, 2).long(), torch.full((1, 2, 2), 7)], "truth from 7 to 7; expected labels below 2"),
        ({"multi_label": True}, [torch.zeros(1, 2, 2, 2).long(), torch.full((1, 2, 2, 2), 3)], "truth from 3 to 3"),
        ({"multi_label": True}, [torch.zeros(1, 3, 2, 2, dtype=torch.int64)] * 2, r"expected \(B, 2, H, W\)"),
    ],
)
def test_what_does_not_fit_is_named(options, update, message):
    with pytest.raises(ValueError, match=message):
        SegmentationScore(2, **options).update(*update)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per_image": True}, "SegmentationScore.merge: per_image True; expected False as here"),
        ({"score_bins": 16}, "score_bins 16; expected 0"),
        ({"ignore": 0}, "ignore 0; expected 255"),
        ({"classes": 3}, r"3 classes \(class 0, class 1, class 2\); expected the same 2"),
    ],
)
def test_scores_of_other_settings_do_not_merge(options, message):
    with pytest.raises(ValueError, match=message):
        SegmentationScore(2).merge(SegmentationScore(**{"classes": 2, **options}))
