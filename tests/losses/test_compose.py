"""Composition by name, and what every segmentation loss promises."""

import pytest
import torch
import torch.nn.functional as F

from vision.losses.compose import LOSSES, SegmentationLoss
from vision.losses.mining import class_weights
from vision.losses.region import dice_loss

SIGNED = {"boundary"}  # may be below 0
CLASSES_ONLY = {"ohem"}
UNCOMPILED = {"boundary", "hausdorff"}  # their distance maps ask the device how far they must look


def draw(classes=3, size=(9, 7), dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, classes, *size, dtype=dtype, generator=generator)
    return logits, torch.randint(0, classes, (2, *size), generator=generator)


def total(losses):
    return sum(losses.values())


@pytest.mark.parametrize("name", LOSSES)
class TestEveryLoss:
    def test_gradient(self, name):
        logits, labels = draw(3, (5, 4), torch.float64)
        labels[0, 0] = 255
        labels[1] = labels[1].clamp(max=1)
        loss = SegmentationLoss(name, 3)
        assert torch.autograd.gradcheck(lambda x: total(loss(x, labels)), logits.requires_grad_(), fast_mode=True)

    def test_gradient_of_masks(self, name):
        if name in CLASSES_ONLY:
            pytest.skip("for one class a pixel")
        logits, labels = draw(2, (5, 4), torch.float64)
        masks = F.one_hot(labels, 2).movedim(-1, 1)
        masks[0, :, 0] = 255
        loss = SegmentationLoss(name, 2)
        assert torch.autograd.gradcheck(lambda x: total(loss(x, masks)), logits.requires_grad_(), fast_mode=True)

    def test_binary_is_one_mask(self, name):
        if name in CLASSES_ONLY:
            pytest.skip("for one class a pixel")
        logits, labels = draw(2)
        loss = SegmentationLoss(name, 1)
        torch.testing.assert_close(loss(logits[:, :1], labels), loss(logits[:, :1], labels[:, None]))

    @pytest.mark.parametrize("autocast", [False, True])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_extreme_logits(self, name, dtype, autocast):
        _, labels = draw()
        sign = torch.randint(0, 2, (2, 3, 9, 7), generator=torch.Generator().manual_seed(1)) * 2 - 1
        for logits in (1e4 * sign, 1e4 * (F.one_hot(labels, 3).movedim(-1, 1) * 2 - 1)):
            logits = logits.to(dtype).requires_grad_()
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                losses = SegmentationLoss(name, 3)(logits, labels)
            (loss,) = losses.values()
            loss.backward()
            assert loss.dtype == torch.float32
            assert loss.isfinite()
            assert logits.grad.isfinite().all()
        if name not in SIGNED:
            assert loss.item() == pytest.approx(0, abs=2e-4)  # everything right

    def test_all_ignored_is_zero_with_a_zero_gradient(self, name):
        logits, labels = draw()
        logits.requires_grad_()
        loss = total(SegmentationLoss(name, 3)(logits, torch.full_like(labels, 255)))
        loss.backward()
        assert loss.item() == pytest.approx(0, abs=1e-4)
        assert logits.grad.abs().max() == 0

    def test_ignored_pixels_do_not_matter(self, name):
        logits, labels = draw()
        labels[:, :, :3] = 255
        other = logits.clone()
        other[..., :3] = torch.randn(2, 3, 9, 3, generator=torch.Generator().manual_seed(5))
        loss = SegmentationLoss(name, 3)
        if name == "hausdorff":  # the prediction's contour is taken from all of it
            pytest.skip("distances reach across ignored pixels")
        torch.testing.assert_close(loss(logits, labels), loss(other, labels))

    def test_descent_finds_the_labels(self, name):
        # from noise, the loss alone must bring the arg max to the labels on most pixels (boundary: with Dice's help)
        labels = torch.zeros(1, 12, 12, dtype=torch.long)
        labels[0, 3:9, 2:7] = 1
        labels[0, 2:6, 8:11] = 2
        logits = torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(0)).requires_grad_()
        loss = SegmentationLoss({name: 1.0, "dice": 0.1} if name in UNCOMPILED | {"boundary_iou"} else name, 3)
        before = (logits.argmax(1) == labels).float().mean()
        optimizer = torch.optim.Adam([logits], lr=0.3)
        for _ in range(40):
            optimizer.zero_grad()
            total(loss(logits, labels)).backward()
            optimizer.step()
        after = (logits.argmax(1) == labels).float().mean()
        floor = 0.6 if name == "hausdorff_erosion" else 0.9  # thin errors are nothing to erosions
        assert after > max(floor, before + 0.2)


COMPILED = ["cross_entropy", "dice"]  # the rest is a matter of many seconds


@pytest.mark.parametrize(
    ("names", "full"),
    [
        (COMPILED, True),
        pytest.param([name for name in LOSSES if name not in UNCOMPILED], True, marks=pytest.mark.slow),
        pytest.param(sorted(UNCOMPILED), False, marks=pytest.mark.slow),
    ],
)
def test_compiled_equals_eager(names, full):
    logits, labels = draw()
    loss = SegmentationLoss("+".join(names), 3)
    compiled = torch.compile(lambda x, y: loss(x, y), backend="aot_eager", fullgraph=full, dynamic=False)
    results = []
    for function in (compiled, loss):
        x = logits.clone().requires_grad_()
        losses = function(x, labels)
        total(losses).backward()
        results.append({**{name: value.detach() for name, value in losses.items()}, "gradient": x.grad})
    torch.testing.assert_close(results[0], results[1])


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
