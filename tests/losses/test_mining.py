"""Hard examples and class weights."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight

from vision.losses.mining import class_weights, hard_negatives, ohem_cross_entropy


def test_ohem_keeps_the_pixels_below_the_threshold():
    # p_true = sigmoid(2 x): 0.5, 0.6, 0.8, 0.9 -> at threshold 0.7 the first two
    p = torch.tensor([0.5, 0.6, 0.8, 0.9])
    logits = torch.stack([torch.log(p / (1 - p)), torch.zeros(4)])[None]  # (1, 2, 4)
    labels = torch.zeros(1, 4, dtype=torch.long)
    loss = ohem_cross_entropy(logits, labels, threshold=0.7, least=0.25)
    assert loss.item() == pytest.approx(-(math.log(0.5) + math.log(0.6)) / 2, rel=1e-5)
    # three quarters of the pixels at least: the third joins
    loss = ohem_cross_entropy(logits, labels, threshold=0.7, least=0.75)
    assert loss.item() == pytest.approx(-(math.log(0.5) + math.log(0.6) + math.log(0.8)) / 3, rel=1e-5)
    labels[0, 0] = 255
    loss = ohem_cross_entropy(logits, labels, threshold=0.7, least=0.25)
    assert loss.item() == pytest.approx(-math.log(0.6), rel=1e-5)


def test_ohem_with_everything_kept_is_cross_entropy():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 4, generator=generator)
    labels = torch.randint(0, 3, (2, 4, 4), generator=generator)
    labels[0, 0] = 255
    weight = torch.tensor([1.0, 2.0, 3.0])
    ours = ohem_cross_entropy(logits, labels, threshold=1.0, least=1.0, weight=weight)
    torch.testing.assert_close(ours, F.cross_entropy(logits, labels, weight, ignore_index=255))


def test_hard_negatives():
    losses = torch.tensor([[5.0, 1.0, 4.0, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0, 5.0]])
    positive = torch.tensor([[True, False, False, False, False], [False] * 5])
    chosen = hard_negatives(losses, positive, ratio=2.0)
    assert chosen.tolist() == [[False, False, True, False, True], [False] * 5]
    chosen = hard_negatives(losses, positive, ratio=2.0, least=1)
    assert chosen[1].tolist() == [False, False, False, False, True]
    allowed = torch.tensor([[True, True, False, True, True]] * 2)  # the hardest negative of the first may not be chosen
    chosen = hard_negatives(losses, positive, ratio=3.0, candidate=allowed)
    assert chosen[0].tolist() == [False, True, False, True, True]


def test_balanced_weights_equal_scikit_learn():
    labels = [0] * 6 + [1] * 3 + [2]
    theirs = torch.tensor(compute_class_weight("balanced", classes=np.arange(3), y=labels)).float()
    ours = class_weights(torch.tensor([6, 3, 1]))
    torch.testing.assert_close(ours, theirs / theirs.mean())


def test_effective_number():
    # E_n = (1 - b^n) / (1 - b): with b = 0.5, E = 1 for n = 1 and 1.5 for n = 2
    ours = class_weights(torch.tensor([1, 2, 0]), "effective_number", beta=0.5)
    mean = (1 + 1 / 1.5) / 2
    torch.testing.assert_close(ours, torch.tensor([1 / mean, 1 / 1.5 / mean, 1.0]))


def test_effective_number_of_pixels_tells_classes_apart():
    # N = the median, 1e6: E = N (1 - e^(-n / N)) = 48771, 632121 and 1e6, whose inverses are to have mean 1
    ours = class_weights([5e4, 1e6, 3e7], "effective_number")
    inverse = 1 / torch.tensor([48771.0, 632121.0, 1e6])
    torch.testing.assert_close(ours, inverse / inverse.mean(), rtol=1e-4, atol=0)
    torch.testing.assert_close(class_weights([5e2, 1e4, 3e5], "effective_number"), ours, rtol=1e-3, atol=0)  # any size
    balanced = class_weights([5e4, 1e6, 3e7])
    assert 1 < ours[1] / ours[2] < balanced[1] / balanced[2]
    assert class_weights([1, 1, 0], "effective_number").tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match=r"beta 1\.0; expected 0 or more and below 1"):
        class_weights([1, 2], "effective_number", beta=1.0)


def test_other_weights():
    torch.testing.assert_close(class_weights([2, 4, 8], "median_frequency"), torch.tensor([2.0, 1.0, 0.5]))
    assert class_weights([0, 0]).tolist() == [1, 1]
    with pytest.raises(ValueError, match="balanced, effective_number"):
        class_weights([1, 2], "equal")
    with pytest.raises(ValueError, match="0 or more"):
        class_weights([1, -2])
