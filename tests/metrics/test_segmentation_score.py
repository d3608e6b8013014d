"""Confusion-matrix scores against scikit-learn and hand-derived values."""

import json

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics

from vision.metrics import SegmentationScore, confusion_matrix


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
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_equals_scikit_learn(classes, dtype, device):
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


def test_ignore_inside_the_classes():
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
