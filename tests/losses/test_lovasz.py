"""The Lovasz losses against segmentation_models_pytorch and a literal reading of the definition."""

import itertools

import pytest
import segmentation_models_pytorch.losses as smp
import torch

from vision.losses.lovasz import lovasz_hinge_loss, lovasz_loss, lovasz_softmax_loss


def draw(classes, *shape, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (2, *shape), generator=generator)
    return torch.randn(2, classes, *shape, dtype=dtype, generator=generator), labels


def test_softmax_equals_segmentation_models():
    logits, labels = draw(4, 7, 5)
    torch.testing.assert_close(lovasz_softmax_loss(logits, labels), smp.LovaszLoss("multiclass")(logits, labels))
    labels[0, :3] = 255
    labels[labels == 2] = 1  # an absent class
    theirs = smp.LovaszLoss("multiclass", ignore_index=255)(logits, labels)
    torch.testing.assert_close(lovasz_softmax_loss(logits, labels), theirs)


def test_hinge_equals_segmentation_models():
    logits, labels = draw(2, 7, 5)
    theirs = smp.LovaszLoss("binary")(logits[:, :1], labels)
    torch.testing.assert_close(lovasz_hinge_loss(logits[:, :1], labels), theirs)
    torch.testing.assert_close(lovasz_loss(logits[:, :1], labels), theirs)


def test_at_corners_of_the_cube_it_is_one_minus_iou():
    # the extension agrees with 1 - IoU wherever every error is 0 or 1
    labels = torch.tensor([[1, 1, 0, 0]])
    for predicted in itertools.product([0, 1], repeat=4):
        wrong = torch.tensor(predicted)
        both = (wrong * labels[0]).sum().item()
        either = ((wrong + labels[0]) > 0).sum().item()
        logits = 100 * (2 * wrong.float() - 1).reshape(1, 1, 4)
        assert lovasz_softmax_loss(logits, labels).item() == pytest.approx(1 - both / either, abs=1e-6)


def test_weights_survive_a_million_pixels():
    # every one of n background pixels wrong by 1 beside one right true pixel: 1 - IoU = n / (n + 1); all differences
    # of neighbouring IoUs are below float32's resolution near 1
    count = 2_000_000
    labels = torch.zeros(1, count, dtype=torch.long)
    labels[0, 0] = 1
    logits = torch.full((1, 1, count), 100.0)
    assert lovasz_softmax_loss(logits, labels).item() == pytest.approx(1.0, abs=1e-4)


def test_hinge_refuses_classes():
    with pytest.raises(ValueError, match="expected masks"):
        lovasz_hinge_loss(*draw(3, 4, 4))
