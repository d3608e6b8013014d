"""One class, two, several, several at once, and more than a byte can number: labels, losses and answers agree."""

import pytest
import torch
import torch.nn.functional as F

from vision.losses.compose import LOSSES
from vision.models import TrainStep, build_model
from vision.models.base import SegmentOutputs
from vision.models.segmenter import class_answers
from vision.structures import ClassMap, LabelRule, Targets


def semantic(labels):
    return Targets(*[torch.zeros(len(labels), 1)] * 4, semantic=labels)


def tiny(classes, **options):
    torch.manual_seed(0)
    return build_model("unet", classes, width=2, depth=2, **options)


def test_the_ignored_label_is_chosen_from_the_class_count():
    assert [ClassMap.of(count).ignore for count in (1, 255, 256, 300)] == [255, 255, -1, -1]


def test_rules_of_labels():
    scores = torch.tensor([[[0.6, 0.2, 0.3]], [[0.4, 0.3, 0.7]]])  # (2, 1, 3)
    assert LabelRule().labels(scores).tolist() == [[0, 1, 1]]
    assert LabelRule(0.5, none=255).labels(scores).tolist() == [[0, 255, 1]]
    assert LabelRule(0.35, none=0, first=1).labels(scores).tolist() == [[1, 0, 1]]
    assert LabelRule(0.5).labels(scores[None, :1]).tolist() == [[[0, 255, 255]]]


@pytest.mark.parametrize("mode", ["multiclass", "binary", "multilabel"])
def test_one_class_is_label_0_and_its_absence_255(mode):
    model = tiny(1, mode=mode, loss="ce")
    logits = torch.tensor([[[[2.0, -3.0]]]])
    (found,) = model.decode(SegmentOutputs(logits, []), scores=True)
    assert found.labels.tolist() == [[0, 255]]
    torch.testing.assert_close(found.scores, logits[0].sigmoid())
    # what decode says of these logits is what the loss wants: -log sigmoid(2), -log(1 - sigmoid(-3))
    loss = model.loss(SegmentOutputs(logits, []), semantic(found.labels[None]))["cross_entropy"]
    torch.testing.assert_close(loss, (F.softplus(torch.tensor(-2.0)) + F.softplus(torch.tensor(-3.0))) / 2)


def test_an_index_map_becomes_one_mask_a_class_in_multilabel_mode():
    labels = torch.tensor([[[0, 2, 255]]])
    answers = class_answers(labels, ClassMap.of(3), "multilabel")
    assert answers.tolist() == [[[[1, 0, 255]], [[0, 0, 255]], [[0, 1, 255]]]]
    assert class_answers(answers, ClassMap.of(3), "multilabel") is answers
    model, logits = tiny(3, mode="multilabel", loss="ce"), torch.randn(1, 3, 1, 3)
    loss = model.loss(SegmentOutputs(logits, []), semantic(labels))["cross_entropy"]
    expected = F.binary_cross_entropy_with_logits(logits[..., :2], answers[..., :2].float())
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "ohem"])  # which is of one class a pixel
def test_every_loss_learns_masks_from_an_index_map(name):
    model = tiny(3, mode="multilabel", loss=name).train()
    labels = torch.randint(0, 3, (2, 16, 16))
    labels[:, :3] = 255
    losses = TrainStep(model)(torch.rand(2, 3, 16, 16), semantic(labels))
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("mode", ["multiclass", "multilabel"])
def test_more_than_255_classes(mode):
    model = tiny(300, mode=mode, loss="ce").train()
    images, labels = torch.rand(1, 3, 8, 8), torch.full((1, 8, 8), -1)
    assert float(sum(TrainStep(model)(images, semantic(labels)).values()).detach()) == 0
    labels[:, 4:] = 255  # a class like any other
    assert float(sum(TrainStep(model)(images, semantic(labels)).values()).detach()) > 0
    logits = torch.full((1, 300, 1, 2), -9.0)
    logits[0, 299, 0, 0] = 9
    (found,) = model.decode(SegmentOutputs(logits, []))
    assert found.labels.tolist() == [[299, -1 if mode == "multilabel" else 0]]


def test_multi_task_of_one_class_tells_it_from_its_absence():
    torch.manual_seed(0)
    model = build_model("multi_task", 1, backbone="resnet18", width=64, depth=1, backbone_options={"width": 0.125})
    with torch.no_grad():
        outputs = model.eval()(torch.rand(1, 3, 64, 64))
    outputs.semantic.logits.fill_(-4)
    outputs.semantic.logits[..., :16] = 4
    (found,) = model.decode_semantic(outputs, torch.tensor([[64, 30]]), scores=True)
    assert found.labels[0].tolist() == [0] * 16 + [255] * 14
    assert found.scores.shape == (1, 64, 30)
