"""Composition by name."""

import pytest
import torch
import torch.nn.functional as F

from vision.losses.compose import LOSSES, SegmentationLoss
from vision.losses.mining import class_weights
from vision.losses.region import dice_loss


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
    spec = {"dice": {"weight": 0.0, "start": 1.0, "ramp": 10}, "lovasz": {"weight": 2.0, "from_epoch": 20, "ramp": 4}}
    region, lovasz = SegmentationLoss(spec, 3).terms
    assert [region.weight_at(epoch) for epoch in (0, 5, 10, 50)] == pytest.approx([1.0, 0.5, 0.0, 0.0])
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
        ({"dice": -1.0}, "must be 0 or more"),
        ({}, "expected names"),
        ({"ce": 1.0, "border_weight": {"w": 3}}, "any of w0, sigma, background"),
        ({"ce": {"class_weight": [1.0]}}, "one number for each of 3 classes"),
        ({"ce": {"class_weight": "fair"}}, "choose one of: balanced"),
    ],
)
def test_refusals(spec, message):
    with pytest.raises(ValueError, match=message):
        SegmentationLoss(spec, 3)
