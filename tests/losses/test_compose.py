"""Composition by name."""

import math

import pytest
import torch
import torch.nn.functional as F

from vision.losses.compose import LOSSES, SegmentationLoss, _function, _parameters
from vision.losses.mining import class_weights
from vision.losses.region import dice_loss
from vision.losses.terms import OPTIONS, Term


def draw(classes=3, size=(9, 7), dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, classes, *size, dtype=dtype, generator=generator)
    return logits, torch.randint(0, classes, (2, *size), generator=generator)


def test_sum_by_name():
    logits, labels = draw()
    losses = SegmentationLoss({"cross_entropy": 2.0, "dice": {"weight": 0.5, "squared": True}}, 3)(logits, labels)
    torch.testing.assert_close(losses["cross_entropy"], 2 * F.cross_entropy(logits, labels))
    torch.testing.assert_close(losses["dice"], 0.5 * dice_loss(logits, labels, squared=True))
    short = SegmentationLoss("ce+dice", 3)(logits, labels)
    torch.testing.assert_close(short["cross_entropy"], F.cross_entropy(logits, labels))
    assert list(short) == ["cross_entropy", "dice"]


def test_weights_over_the_epochs():
    spec = {"dice": {"weight": 0.0, "start": 1.0, "ramp": 24}, "lovasz": {"weight": 2.0, "from_epoch": 20, "ramp": 4}}
    region, lovasz = SegmentationLoss(spec, 3).terms
    assert [region.weight_at(epoch) for epoch in (0, 12, 24, 50)] == pytest.approx([1.0, 0.5, 0.0, 0.0])
    assert [lovasz.weight_at(epoch) for epoch in (0, 19, 20, 21, 24, 99)] == pytest.approx([0, 0, 0, 0.5, 2, 2])
    logits, labels = draw()
    loss = SegmentationLoss(spec, 3)
    assert list(loss(logits, labels, 0)) == ["dice"]
    assert list(loss(logits, labels, 5)) == ["dice"]
    assert list(loss(logits, labels, 24)) == ["lovasz"]


def test_class_weights_by_name_and_by_number():
    logits, labels = draw()
    counts = torch.bincount(labels.flatten(), minlength=3)
    loss = SegmentationLoss("ce+lovasz", 3, class_weight="balanced")
    assert loss.needs_counts
    with pytest.raises(ValueError, match="use_counts"):
        loss(logits, labels)
    loss.use_counts(counts)
    expected = F.cross_entropy(logits, labels, class_weights(counts))
    torch.testing.assert_close(loss(logits, labels)["cross_entropy"], expected)
    given = SegmentationLoss({"ce": {"class_weight": [1.0, 2.0, 3.0]}}, 3)
    expected = F.cross_entropy(logits, labels, torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(given(logits, labels)["cross_entropy"], expected)
    with pytest.raises(ValueError, match="3 class weights for 1 logits"):
        SegmentationLoss("dice", 3, class_weight=[1, 2, 3])(logits[:, :1], labels)


def test_ranges_are_of_every_option_of_every_loss():
    assert list(OPTIONS) == list(LOSSES)
    for name, options in OPTIONS.items():
        shared = {"logits", "labels", "ignore", "class_weight", "pixel_weight", "reduction"}
        taken = _parameters(_function(Term(name)))
        assert taken - shared == set(options), name
        assert "class_weight" in taken, name


def test_alpha_of_the_focal_loss_is_for_masks():
    logits, labels = draw()
    loss = SegmentationLoss({"focal": {"alpha": 0.25}}, 3)
    with pytest.raises(ValueError, match=r"alpha 0\.25 for one class a pixel out of 3.*use class_weight"):
        loss(logits, labels)
    masks = F.one_hot(labels, 3).movedim(-1, 1)
    plain = SegmentationLoss("focal", 3)(logits, masks)["focal"]
    assert loss(logits, masks)["focal"] < plain  # every element weighs 0.25 or 0.75


def test_pixel_weights_reach_the_losses_that_take_them():
    logits, labels = draw()
    half = torch.ones(2, 9, 7)
    half[:, 4:] = 0
    loss = SegmentationLoss("ce+dice+focal", 3)
    weighted = loss(logits, labels, pixel_weight=half)
    torch.testing.assert_close(weighted, loss(logits[:, :, :4], labels[:, :4]))


def test_border_weight_is_a_line_of_a_recipe():
    labels = torch.zeros(1, 8, 9, dtype=torch.long)
    labels[:, :, :3] = 1
    labels[:, :, 5:] = 1  # two cells with two pixels between them
    logits = torch.randn(1, 2, 8, 9, generator=torch.Generator().manual_seed(0))
    spec = {"ce": 1.0, "border_weight": {"w0": 4.0, "sigma": 2.0}}
    loss = SegmentationLoss(spec, 2)(logits, labels)
    assert list(loss) == ["cross_entropy"]
    weight = 1 + 4 * torch.exp(torch.tensor(-9.0 / 8)) * (labels == 0)  # d1 + d2 = 1 + 2
    expected = (F.cross_entropy(logits, labels, reduction="none") * weight).sum() / weight.sum()
    torch.testing.assert_close(loss["cross_entropy"], expected)


def test_devices_agree(device):
    logits, labels = draw()
    labels[0, 0] = 255
    loss = SegmentationLoss({**dict.fromkeys(LOSSES, 1.0), "border_weight": {"sigma": 3.0}}, 3, class_weight=[1, 2, 3])
    here, there = loss(logits, labels), loss(logits.to(device), labels.to(device))
    torch.testing.assert_close({name: value.cpu() for name, value in there.items()}, here, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("entropy", "'entropy' is not known; choose from: cross_entropy, focal"),
        ({"dice": {"gamma": 2}}, "loss.dice: unknown gamma; known are: class_weight"),
        ({"dice": "much"}, "loss.dice = 'much'; expected a weight"),
        ({"dice": -1.0}, "loss.dice.weight = -1.0; expected a number of 0 or more"),
        ({}, "expected names"),
        ({"border_weight": {}}, "expected names"),
        ({"ce": 1.0, "border_weight": {"w": 3}}, "unknown w; known are: background, sigma, w0"),
        (
            {"lovasz": 1.0, "border_weight": {}},
            r"no loss .* \(lovasz\) takes .* are: cross_entropy, focal, ohem",
        ),
        ({"ce": 1.0, "border_weight": 3}, "any of w0, sigma, background"),
        ({"ce": 1.0, "border_weight": {"sigma": 0}}, "border_weight.sigma = 0; expected a number above 0"),
        ({"boundary": {"from_epoch": 1}}, "every weight is 0 in epoch 0.*`start:`"),
        ({"ce": {"ramp": 9}}, "every weight is 0 in epoch 0.*`start:`"),
        ({"ce": 0}, "every weight is 0 in epoch 0"),
        # up to epoch 5, and from 10 on, but nothing between
        ({"ce": {"start": 1, "weight": 0, "ramp": 5}, "dice": {"from_epoch": 10}}, "every weight is 0 in epoch 5"),
        ({"ce": {"start": 1, "weight": 0, "from_epoch": 3}, "dice": {"from_epoch": 5}}, "every weight is 0 in epoch 3"),
        ({"ce": 1, "cross_entropy": 2}, "cross_entropy named twice .*ce is short for cross_entropy"),
        ("dice+dice", "dice named twice"),
        ({"ce": {"label_smoothing": 2}}, "cross_entropy.label_smoothing = 2; expected a number from 0 to below 1"),
        ({"tversky": {"alpha": "x"}}, "loss.tversky.alpha = 'x'; expected a number of 0 or more"),
        ({"focal": {"gamma": -3}}, "loss.focal.gamma = -3; expected a number of 0 or more"),
        ({"focal": {"alpha": 1.5}}, "from 0 to 1, or null"),
        ({"focal_tversky": {"gamma": 0}}, "a number above 0"),
        ({"ohem": {"least": 0}}, "above 0, up to 1"),
        ({"dice": {"squared": 1}}, "loss.dice.squared = 1; expected true or false"),
        ({"hausdorff_erosion": {"erosions": -2}}, "erosions = -2; expected a whole number of 1 or more"),
        ({"dice": {"weight": math.nan}}, "loss.dice.weight = nan; expected"),
        ({"dice": math.inf}, "loss.dice.weight = inf; expected"),
        ({"dice": {"from_epoch": -3}}, "from_epoch = -3; expected a whole number of 0 or more"),
        ({"dice": {"ramp": 1.5}}, "ramp = 1.5; expected a whole number"),
        ({"dice": {"class_weight": [1, -1, 2]}}, "finite numbers of 0 or more"),
        ({"dice": {"class_weight": ["a", 1, 2]}}, "expected a number for each class, or a name"),
        ({"ce": {"class_weight": [1.0]}}, "one number for each of 3 classes"),
        ({"ce": {"class_weight": "fair"}}, "choose one of: balanced"),
    ],
)
def test_refusals(spec, message):
    with pytest.raises(ValueError, match=message):
        SegmentationLoss(spec, 3)
