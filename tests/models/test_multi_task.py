"""Hard and soft parameter sharing of detection and segmentation."""

import pytest
import torch
from torch import nn

from vision.engine.evaluate import evaluate
from vision.engine.train import train
from vision.models import TrainStep, build_model
from vision.models.multi_task import TaskView, distance_apart
from vision.structures import Targets

SMALL = {"backbone": "resnet18", "width": 64, "depth": 1, "backbone_options": {"width": 0.25}}


def tiny(**options):
    torch.manual_seed(0)
    return build_model("multi_task", 3, **SMALL, **options)


def batch(size=64):
    boxes = torch.tensor([[[4.0, 6, 44, 50]], [[0, 0, 0, 0]]])
    labels, valid = torch.tensor([[1], [-1]]), torch.tensor([[True], [False]])
    semantic = torch.randint(0, 3, (2, size, size), generator=torch.Generator().manual_seed(0))
    return torch.rand(2, 3, size, size), Targets(boxes, labels, valid, torch.zeros_like(valid), semantic=semantic)


def test_distance_is_half_the_sum_of_squares():
    first, second = nn.Linear(2, 1), nn.Linear(2, 1)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0, 2]]))
        second.weight.copy_(torch.tensor([[0.0, 4]]))
        first.bias.fill_(1)
        second.bias.fill_(3)
    distance = distance_apart(first, second)
    assert distance.item() == pytest.approx(0.5 * (1 + 4 + 4))
    distance.backward()
    assert first.weight.grad.tolist() == [[1.0, -2.0]]  # a - b: each is pulled towards the other
    assert second.weight.grad.tolist() == [[-1.0, 2.0]]


def test_hard_sharing_trains_one_backbone_with_both_tasks():
    images, targets = batch()
    for task, off in (("detection", "semantic"), ("semantic", "detection")):
        model = tiny(weights={off: 0.0}).train()
        assert model.semantic_backbone is None
        losses = TrainStep(model)(images, targets)
        sum(losses.values()).backward()
        assert model.backbone.layer2[0].conv1.weight.grad.abs().sum() > 0, task
        head = model.semantic_head.classifier if task == "detection" else model.head
        assert all(not p.grad.any() for p in head.parameters()), f"{off} has weight 0"


def test_soft_sharing_starts_together_and_pulls():
    images, targets = batch()
    model = tiny(sharing="soft", pull=10.0).train()
    losses = TrainStep(model)(images, targets)
    assert losses["sharing"].item() == 0
    with torch.no_grad():
        for parameter in model.semantic_backbone.parameters():
            parameter.add_(0.1)
    count = sum(parameter.numel() for parameter in model.backbone.parameters())
    losses = TrainStep(model)(images, targets)
    assert losses["sharing"].item() == pytest.approx(10 * 0.5 * count * 0.01, rel=1e-3)


def test_weights_multiply_the_losses_of_their_task():
    images, targets = batch()
    plain = TrainStep(tiny().train())(images, targets)
    weighted = TrainStep(tiny(weights={"detection": 2.0, "semantic": 0.5}).train())(images, targets)
    assert set(plain) == set(weighted) == {"class", "box", "centre", "semantic"}
    for name, value in plain.items():
        torch.testing.assert_close(weighted[name], value * (0.5 if name == "semantic" else 2.0))


def test_views_decode_their_task():
    model = tiny().eval()
    detector, segmenter = model.views()
    images, sizes = torch.rand(1, 3, 50, 70), torch.tensor([[50, 70]])
    with torch.no_grad():
        (found,) = detector.decode(detector(images), sizes, score_threshold=0.0)
        (labels,) = segmenter.decode(segmenter(images), sizes, scores=True)
    assert found.boxes.shape == (len(found), 4)
    assert labels.labels.shape == (50, 70)
    assert labels.scores.shape == (3, 50, 70)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"sharing": "both"}, "hard or soft"), ({"weights": {"masks": 1.0}}, "semantic"), ({"pull": -1.0}, "0 or more")],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        tiny(**options)


def test_a_view_is_of_a_known_task():
    with pytest.raises(ValueError, match="detection, semantic"):
        TaskView(tiny(), "instance")


@pytest.mark.slow
@pytest.mark.parametrize("sharing", ["hard", "soft"])
def test_trains_and_evaluates_on_panoptic_data(sharing, real_data, tmp_path):
    data = str(real_data("coco256"))
    result = train(
        model="multi_task", model_options={**SMALL, "sharing": sharing}, data=data, out=str(tmp_path / "run"),
        epochs=1, batch_size=25, image_size=64,
    )  # fmt: skip
    assert {"bbox", "semantic"} <= set(result.metrics)
    import vision

    model = vision.load(result.weights)
    found = evaluate(model, vision.open_dataset(data, "val", task="panoptic"), out=tmp_path / "val", progress=False)
    assert 0 <= found.to_dict()["semantic"]["mIoU"] <= 1
    assert (tmp_path / "val" / "detection" / "predictions.json").is_file()
    assert len(list((tmp_path / "val" / "semantic" / "masks").iterdir())) == 100
