"""Overlap losses against segmentation_models_pytorch, monai, one-hot arithmetic and hand-derived values."""

import monai.losses
import pytest
import segmentation_models_pytorch.losses as smp
import torch
import torch.nn.functional as F

from vision.losses.region import (
    dice_loss,
    focal_tversky_loss,
    generalised_dice_loss,
    jaccard_loss,
    log_cosh_dice_loss,
    tversky_loss,
)


def draw(classes, *shape, seed=0, dtype=torch.float32):
    """Logits (2, classes, *shape) and labels (2, *shape) with every class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (2, *shape), generator=generator)
    return torch.randn(2, classes, *shape, dtype=dtype, generator=generator), labels


@pytest.mark.parametrize(("wrong_share", "expected"), [(0.0, 0.0), (0.5, 1 - 2 / 3), (1.0, 1.0)])
def test_dice_ignores_absent_classes(wrong_share, expected):
    # one true class of 20, a share w of its pixels predicted elsewhere: Dice = 2 (1 - w) / ((1 - w) + 1)
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    predicted = labels.clone()
    predicted.view(-1)[: int(64 * wrong_share)] = 1
    logits = 50.0 * F.one_hot(predicted, 20).movedim(-1, 1).float()
    assert dice_loss(logits, labels).item() == pytest.approx(expected, abs=1e-4)


def test_hand_derived_values():
    # one mask over four pixels, p = 0.8 0.8 0.2 0.2 and t = 1 0 0 1: overlap 1.0, sum p 2.0, sum t 2.0, sum p^2 1.36
    probability = torch.tensor([0.8, 0.8, 0.2, 0.2])
    logits = torch.logit(probability).reshape(1, 1, 4)
    labels = torch.tensor([[1, 0, 0, 1]])
    assert dice_loss(logits, labels).item() == pytest.approx(1 - 2 / 4)
    assert dice_loss(logits, labels, squared=True).item() == pytest.approx(1 - 2 / 3.36)
    assert jaccard_loss(logits, labels).item() == pytest.approx(1 - 1 / 3)
    # TP 1, FP 1, FN 1
    assert tversky_loss(logits, labels, alpha=0.2, beta=0.6).item() == pytest.approx(1 - 1 / 1.8)
    focal = focal_tversky_loss(logits, labels, alpha=0.2, beta=0.6, gamma=2.0)
    assert focal.item() == pytest.approx((1 - 1 / 1.8) ** 0.5)
    assert log_cosh_dice_loss(logits, labels).item() == pytest.approx(0.120115, abs=1e-5)  # ln cosh 0.5
    assert generalised_dice_loss(logits, labels).item() == pytest.approx(0.5)
    # pixels of weight 2 1 1 0: overlap 1.6, sum p 2.6, sum t 2
    weighted = dice_loss(logits, labels, pixel_weight=torch.tensor([[2.0, 1.0, 1.0, 0.0]]))
    assert weighted.item() == pytest.approx(1 - 3.2 / 4.6)


@pytest.mark.parametrize("shape", [(7, 5), (3, 4, 5)])
def test_equal_to_segmentation_models(shape):
    logits, labels = draw(4, *shape)
    if len(shape) == 2:  # theirs is 2-D alone
        torch.testing.assert_close(dice_loss(logits, labels), smp.DiceLoss("multiclass")(logits, labels))
        torch.testing.assert_close(jaccard_loss(logits, labels), smp.JaccardLoss("multiclass")(logits, labels))
        theirs = smp.TverskyLoss("multiclass", alpha=0.3, beta=0.7)(logits, labels)
        torch.testing.assert_close(tversky_loss(logits, labels), theirs)
    options = {"softmax": True, "to_onehot_y": True, "smooth_nr": 0.0, "smooth_dr": 0.0}
    theirs = monai.losses.DiceLoss(**options)(logits, labels[:, None])
    torch.testing.assert_close(dice_loss(logits, labels, per_image=True), theirs)
    theirs = monai.losses.DiceLoss(squared_pred=True, batch=True, **options)(logits, labels[:, None])
    torch.testing.assert_close(dice_loss(logits, labels, squared=True), theirs)
    theirs = monai.losses.GeneralizedDiceLoss(**options)(logits, labels[:, None])
    torch.testing.assert_close(generalised_dice_loss(logits, labels, per_image=True), theirs)
    theirs = monai.losses.TverskyLoss(alpha=0.3, beta=0.7, **options)(logits, labels[:, None])
    torch.testing.assert_close(tversky_loss(logits, labels, per_image=True), theirs)


def test_masks_equal_monai():
    logits, _ = draw(3, 6, 5)
    masks = torch.rand(2, 3, 6, 5, generator=torch.Generator().manual_seed(1)) > 0.5
    options = {"sigmoid": True, "smooth_nr": 0.0, "smooth_dr": 0.0}
    theirs = monai.losses.DiceLoss(**options)(logits, masks.float())
    torch.testing.assert_close(dice_loss(logits, masks, per_image=True), theirs)
    theirs = monai.losses.DiceLoss(jaccard=True, **options)(logits[:, :1], masks[:, :1].float())
    torch.testing.assert_close(jaccard_loss(logits[:, :1], masks[:, 0].long(), per_image=True), theirs)


def test_class_weight_and_reductions():
    logits, labels = draw(3, 6, 5)
    each = dice_loss(logits, labels, reduction="none")
    assert each.shape == (3,)
    weight = torch.tensor([0.0, 1.0, 3.0])  # the background left out
    weighted = dice_loss(logits, labels, class_weight=weight)
    torch.testing.assert_close(weighted, (each[1] + 3 * each[2]) / 4)
    torch.testing.assert_close(dice_loss(logits, labels, reduction="sum"), each.sum())
    assert dice_loss(logits, labels, per_image=True, reduction="none").shape == (2, 3)


def test_an_unknown_argument_is_refused_with_the_known_ones():
    for loss in (dice_loss, generalised_dice_loss, jaccard_loss, tversky_loss, focal_tversky_loss, log_cosh_dice_loss):
        with pytest.raises(TypeError, match="unknown argument weight; it takes ignore, class_weight, pixel_weight"):
            loss(*draw(3, 6, 5), weight=1.0)
        with pytest.raises(ValueError, match="reduction 'average'"):
            loss(*draw(3, 6, 5), reduction="average")


def test_sums_keep_their_digits_over_millions_of_pixels():
    # 4 million equal pixels: added one after the other in float32 they would stop at about 0.6 of their sum
    logits = torch.full((1, 2, 2048, 2048), 0.3)
    logits[:, 1] = 0.0
    labels = torch.zeros(1, 2048, 2048, dtype=torch.uint8)
    p = torch.tensor(0.3, dtype=torch.float64).sigmoid().item()
    assert dice_loss(logits, labels).item() == pytest.approx(1 - 2 * p / (p + 1), abs=5e-5)


def test_peak_memory_is_below_that_of_one_hot_labels(peak):
    logits, labels = draw(19, 64, 128)
    options = {"softmax": True, "to_onehot_y": True}
    for ours, theirs in (
        (dice_loss, (smp.DiceLoss("multiclass"), monai.losses.DiceLoss(**options))),
        (tversky_loss, (smp.TverskyLoss("multiclass"), monai.losses.TverskyLoss(**options))),
    ):
        own = peak(ours, logits, labels)
        assert own < 2.6  # probabilities, gradient, and what is small beside them
        assert own < peak(theirs[0], logits, labels)
        assert own < peak(lambda x, y, loss=theirs[1]: loss(x, y[:, None]), logits, labels)
