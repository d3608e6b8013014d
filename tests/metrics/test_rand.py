"""Rand scores against a count of all pairs of pixels, scipy's regions, and cases by hand."""

import itertools
import json

import numpy as np
import pytest
import torch
from scipy import ndimage

from vision.metrics.rand import RandScore, joined_pairs, rand_figures


def counted_pairs(predicted, truth):
    """One image, pair by pair."""
    both = there = found = 0
    pixels = [(p, t) for p, t in zip(predicted.ravel(), truth.ravel()) if t > 0]
    for (p, t), (q, u) in itertools.combinations(pixels, 2):
        same_truth, same_predicted = t == u, p == q and p > 0
        both += same_truth and same_predicted
        there += same_truth
        found += same_predicted
    return [both, there, found]


@pytest.mark.parametrize("seed", range(4))
def test_equals_every_pair(seed, device):
    rng = np.random.default_rng(seed)
    predicted, truth = rng.integers(0, [[[[4]]], [[[5]]]], (2, 3, 6, 7))
    expected = np.sum([counted_pairs(p, t) for p, t in zip(predicted, truth)], 0)
    found = joined_pairs(torch.from_numpy(predicted).to(device), torch.from_numpy(truth).to(device))
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("diagonal", [False, True])
def test_regions_of_classes_equal_scipy(diagonal, device):
    rng = np.random.default_rng(1)
    truth = (ndimage.gaussian_filter(rng.normal(size=(2, 24, 31)), (0, 1.5, 1.5)) > 0).astype(int)
    predicted = np.where(rng.random(truth.shape) < 0.05, 1 - truth, truth)
    truth[:, :3] = 255
    score = RandScore(("membrane", "cell"), diagonal=diagonal)
    score.update(torch.from_numpy(predicted).to(device), torch.from_numpy(truth).to(device))
    structure = np.ones((3, 3)) if diagonal else None
    for label in range(2):
        sides = [[ndimage.label(one == label, structure)[0] for one in side] for side in (predicted, truth)]
        expected = joined_pairs(*(torch.from_numpy(np.stack(side)) for side in sides))
        assert score.compute().pairs[label].tolist() == expected.tolist()


def test_a_gap_in_a_membrane_by_hand():
    # two cells of 4 pixels between which a gap opens: 12 true pairs stay joined, of 28 predicted ones
    truth = torch.tensor([[[1, 1, 0, 1, 1], [1, 1, 0, 1, 1]]])
    predicted = truth.clone()
    predicted[0, 0, 2] = 1
    score = RandScore(("membrane", "cell"))
    score.update(predicted, truth)
    cell = score.compute().to_dict()["per_class"]["cell"]
    assert cell == pytest.approx({"V_rand": 24 / 40, "rand_error": 16 / 40, "rand_split": 1, "rand_merge": 12 / 28})


def test_a_cell_cut_in_two_by_hand():
    # 5 pixels, the middle one predicted as membrane: of 10 pairs 1 + 1 stay joined, none is wrong
    truth = torch.ones(1, 1, 5, dtype=torch.int64)
    predicted = torch.tensor([[[1, 1, 0, 1, 1]]])
    score = RandScore(2)
    score.update(predicted, truth)
    cell = score.compute().to_dict()["per_class"]["class 1"]
    assert cell == pytest.approx({"V_rand": 4 / 12, "rand_error": 8 / 12, "rand_split": 0.2, "rand_merge": 1})


def test_undefined_merge_and_reset():
    nothing = RandScore(2).compute().to_dict()
    assert nothing["classes_left_out"] == 2
    json.dumps(nothing, allow_nan=False)
    labels = torch.tensor([[[1, 1, 0, 1]]])
    left, right = RandScore(2), RandScore(2)
    left.update(labels, labels)
    right.update(1 - labels, labels)  # nothing found: the worst score, not none
    assert right.compute().to_dict()["per_class"]["class 1"]["V_rand"] == 0
    left.merge(right)
    assert left.compute().pairs[1].tolist() == [1, 2, 1]
    assert "class 1" in left.compute().table("markdown")
    left.reset()
    assert left.pairs.sum() == 0
    assert rand_figures(torch.tensor([3, 3, 3]))["rand_error"] == 0
    with pytest.raises(ValueError, match="expected equal"):
        left.update(labels, labels[0])
