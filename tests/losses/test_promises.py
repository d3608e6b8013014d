"""What every loss promises, over one table of all of them: those of recipes, on classes and on masks, and those that
detection heads are built of."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F

from vision.losses.boxes import balanced_l1_loss, box_iou_loss, distribution_focal_loss, smooth_l1_loss
from vision.losses.classification import (
    binary_cross_entropy,
    heatmap_focal_loss,
    quality_focal_loss,
    sigmoid_focal_loss,
    softmax_focal_loss,
    varifocal_loss,
)
from vision.losses.compose import LOSSES, SegmentationLoss
from vision.ops.boxes import IOU_KINDS

SIGNED = {"boundary"}  # may be below 0
CLASSES_ONLY = {"ohem"}
COUNTS_BACKGROUND = {"cross_entropy", "focal"}  # a mask without a true pixel has a loss too
OF_CONTOURS = {"boundary", "hausdorff", "hausdorff_erosion", "boundary_iou"}  # a full mask has none
BREAKS = {"boundary", "hausdorff"}  # their distance maps ask the device how far they must look


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def draw_classes(dtype=torch.float32, classes=3, size=(9, 7)):
    logits = torch.randn(2, classes, *size, dtype=dtype, generator=seeded())
    return logits, torch.randint(0, classes, (2, *size), generator=seeded(1))


def draw_masks(dtype=torch.float32):
    logits, labels = draw_classes(dtype, 2)
    masks = F.one_hot(labels, 2).movedim(-1, 1)
    masks[0, :, 0] = 255
    return logits, masks


def draw_scores(dtype=torch.float32):
    targets = torch.rand(6, 4, dtype=dtype, generator=seeded(1))
    targets.view(-1)[:6] = torch.tensor([0.0, 1.0] * 3)
    return torch.randn(6, 4, dtype=dtype, generator=seeded()), targets


def draw_boxes(dtype=torch.float32):
    corners = torch.rand(2, 6, 2, generator=seeded(), dtype=dtype) * 10
    return tuple(torch.cat([corners, corners + 1 + torch.rand(2, 6, 2, generator=seeded(1), dtype=dtype) * 9], -1))


def draw_distribution(dtype=torch.float32):
    return torch.randn(6, 5, dtype=dtype, generator=seeded()), torch.rand(6, dtype=dtype, generator=seeded(1)) * 4


def draw_labels(dtype=torch.float32):
    return torch.randn(6, 4, dtype=dtype, generator=seeded()), torch.randint(0, 4, (6,), generator=seeded(1))


@dataclass(frozen=True)
class Case:
    """A loss (prediction, truth) -> scalar, and what draws its inputs."""

    loss: Callable
    draw: Callable
    whole_graph: bool = True
    gradient: bool = True  # equals the differences of the values


def of_recipes(name, classes):
    loss = SegmentationLoss(name, classes)
    return lambda logits, labels: sum(loss(logits, labels).values())


def summed(loss, **options):
    return lambda prediction, truth: loss(prediction, truth, reduction="sum", **options)


ELEMENTWISE = [binary_cross_entropy, sigmoid_focal_loss, quality_focal_loss, varifocal_loss, heatmap_focal_loss]
RECIPES = {name: Case(of_recipes(name, 3), draw_classes, name not in BREAKS) for name in LOSSES}
MASKS = {
    f"{name} of masks": Case(of_recipes(name, 2), draw_masks, name not in BREAKS)
    for name in LOSSES
    if name not in CLASSES_ONLY
}
HEADS = {
    **{loss.__name__: Case(summed(loss), draw_scores) for loss in ELEMENTWISE},
    # CIoU holds its trade-off weight constant: its gradient is not that of its value, by design
    **{kind: Case(summed(box_iou_loss, kind=kind), draw_boxes, gradient=kind != "ciou") for kind in IOU_KINDS},
    "alpha-IoU": Case(summed(box_iou_loss, kind="giou", alpha=3.0), draw_boxes),
    "softmax_focal_loss": Case(summed(softmax_focal_loss), draw_labels),
    "smooth_l1_loss": Case(summed(smooth_l1_loss), draw_boxes),
    "balanced_l1_loss": Case(summed(balanced_l1_loss), draw_boxes),
    "distribution_focal_loss": Case(summed(distribution_focal_loss), draw_distribution),
}
ALL = {**RECIPES, **MASKS, **HEADS}


def test_table_has_every_loss():
    """A public loss that is missing here would go untested."""
    import importlib

    covered = {path.split(":")[1] for path in LOSSES.values()} | set(HEADS)
    covered |= {"box_iou_loss"}  # as its kinds
    covered |= {"lovasz_softmax_loss", "lovasz_hinge_loss"}  # as "lovasz" of classes and of masks
    for module in ("boundary", "boxes", "classification", "lovasz", "region"):
        names = importlib.import_module(f"vision.losses.{module}").__all__
        assert {name for name in names if name.endswith("_loss")} <= covered


@pytest.mark.parametrize("name", [name for name, case in ALL.items() if case.gradient])
def test_gradient(name):
    case = ALL[name]
    prediction, truth = case.draw(torch.float64)
    if case.draw is draw_classes:
        truth[0, 0] = 255
        truth[1] = truth[1].clamp(max=1)
    assert torch.autograd.gradcheck(lambda x: case.loss(x, truth), prediction.requires_grad_(), fast_mode=True)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ALL)
def test_extreme_inputs(name, dtype, autocast):
    prediction, truth = ALL[name].draw()
    sign = torch.randint(0, 2, prediction.shape, generator=seeded(2)) * 2 - 1
    extremes = [1e4 * sign, 1e4 * (prediction > 0), torch.full_like(prediction, -1e4)]
    if name in RECIPES:  # the last one right
        extremes.append(1e4 * (F.one_hot(truth, 3).movedim(-1, 1) * 2 - 1))
    for extreme in extremes:
        extreme = extreme.to(dtype).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = ALL[name].loss(extreme, truth)
        loss.backward()
        assert loss.dtype == torch.float32
        assert loss.isfinite()
        assert extreme.grad.isfinite().all()
    if name in RECIPES and name not in SIGNED:
        assert loss.item() == pytest.approx(0, abs=2e-4)


@pytest.mark.parametrize("name", ALL)
def test_nothing_to_learn_from_is_zero_with_a_zero_gradient(name):
    prediction, truth = ALL[name].draw()
    if name in HEADS:
        prediction, truth = prediction[:0], truth[:0]
    else:
        truth = torch.full_like(truth, 255)
    loss = ALL[name].loss(prediction.requires_grad_(), truth)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-4)
    assert not prediction.grad.any()


@pytest.mark.parametrize("name", {**RECIPES, **MASKS})
def test_a_batch_of_nothing_is_zero(name):
    prediction, truth = (one[:0] for one in ALL[name].draw())
    loss = ALL[name].loss(prediction.requires_grad_(), truth)
    loss.backward()
    assert loss.item() == 0
    assert prediction.grad.shape == prediction.shape


@pytest.mark.parametrize("name", LOSSES)
def test_absent_class_does_not_matter(name):
    """A third class that neither labels nor prediction have changes nothing."""
    logits, labels = draw_classes(classes=2)
    third = torch.cat([logits, torch.full_like(logits[:, :1], -1e4)], 1).requires_grad_()
    loss = ALL[name].loss(third, labels)
    torch.testing.assert_close(loss, of_recipes(name, 2)(logits, labels))
    loss.backward()
    assert not third.grad[:, 2].any()


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in CLASSES_ONLY])
def test_empty_and_full_masks(name):
    loss = of_recipes(name, 1)
    for value in (0, 1):
        logits = torch.randn(2, 1, 9, 7, generator=seeded()).requires_grad_()
        found = loss(logits, torch.full((2, 9, 7), value))
        found.backward()
        assert found.isfinite()
        assert logits.grad.isfinite().all()
        if value == 0 and name not in COUNTS_BACKGROUND:  # the class is absent: it has no score
            assert found.item() == 0
            assert not logits.grad.any()
    if name not in OF_CONTOURS:
        assert found.item() > 0


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "hausdorff"])  # its distances reach across them
def test_ignored_pixels_do_not_matter(name):
    logits, labels = draw_classes()
    labels[:, :, :3] = 255
    other = logits.clone()
    other[..., :3] = torch.randn(2, 3, 9, 3, generator=seeded(5))
    torch.testing.assert_close(ALL[name].loss(logits, labels), ALL[name].loss(other, labels))


@pytest.mark.parametrize("name", LOSSES)
def test_ignored_class_is_no_class(name):
    """`ignore` may be one of the classes: as if its pixels had any other label to ignore."""
    logits, labels = draw_classes()
    loss = SegmentationLoss(name, 3, ignore=0)
    expected = ALL[name].loss(logits, labels.masked_fill(labels == 0, 255))
    torch.testing.assert_close(sum(loss(logits, labels).values()), expected)


@pytest.mark.parametrize("wrong", [3, -1])
@pytest.mark.parametrize("name", LOSSES)
def test_labels_that_are_no_class_raise(name, wrong):
    logits, labels = draw_classes()
    labels[0, 0, 0] = wrong
    with pytest.raises((ValueError, IndexError, RuntimeError)):
        ALL[name].loss(logits, labels)


@pytest.mark.parametrize("name", [name for name in {**RECIPES, **MASKS} if name.split()[0] not in OF_CONTOURS])
def test_one_pixel_an_image_needs_no_axis(name):
    prediction, truth = (one[..., 0, 1] for one in ALL[name].draw())  # (B, C), (B,) or (B, C)
    expected = ALL[name].loss(prediction[..., None, None], truth[..., None, None])
    prediction.requires_grad_()
    loss = ALL[name].loss(prediction, truth)
    loss.backward()
    torch.testing.assert_close(loss, expected)
    assert prediction.grad.shape == prediction.shape


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in CLASSES_ONLY])
def test_binary_is_one_mask(name):
    logits, labels = draw_classes(classes=2)
    loss = of_recipes(name, 1)
    torch.testing.assert_close(loss(logits[:, :1], labels), loss(logits[:, :1], labels[:, None]))


@pytest.mark.parametrize("name", LOSSES)
def test_descent_finds_the_labels(name):
    # from noise, the loss alone must bring the arg max to the labels on most pixels (contours: with Dice's help)
    labels = torch.zeros(1, 12, 12, dtype=torch.long)
    labels[0, 3:9, 2:7] = 1
    labels[0, 2:6, 8:11] = 2
    logits = torch.randn(1, 3, 12, 12, generator=seeded()).requires_grad_()
    loss = SegmentationLoss({name: 1.0, "dice": 0.1} if name in BREAKS | {"boundary_iou"} else name, 3)
    before = (logits.argmax(1) == labels).float().mean()
    optimizer = torch.optim.Adam([logits], lr=0.3)
    for _ in range(40):
        optimizer.zero_grad()
        sum(loss(logits, labels).values()).backward()
        optimizer.step()
    after = (logits.argmax(1) == labels).float().mean()
    floor = 0.6 if name == "hausdorff_erosion" else 0.9  # thin errors are nothing to erosions
    assert after > max(floor, before + 0.2)


def check_compiled(case, backend):
    torch._dynamo.reset()
    compiled = torch.compile(lambda x, y: case.loss(x, y), backend=backend, fullgraph=case.whole_graph, dynamic=False)
    prediction, truth = case.draw()
    results = []
    for function in (compiled, case.loss):
        x = prediction.clone().requires_grad_()
        loss = function(x, truth)
        loss.backward()
        results.append((loss.detach(), x.grad))
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("name", ["cross_entropy", "dice", "sigmoid_focal_loss", "giou"])
def test_compiled_equals_eager(name):
    check_compiled(ALL[name], "aot_eager")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("name", ALL)
def test_every_loss_compiled_equals_eager(name, backend):
    check_compiled(ALL[name], backend)
