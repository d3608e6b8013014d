import copy
from itertools import pairwise

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from vision.models import TrainStep, build_model
from vision.models.base import DenseOutputs
from vision.structures import Targets


def parameters_of(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_nano_keeps_within_its_limits():
    # 640 px and 80 classes; two operations a multiplication and addition
    with torch.device("meta"):
        model = build_model("yolo_n", 80).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.zeros(1, 3, 640, 640))
    assert parameters_of(model) <= 3.2e6
    assert counter.get_total_flops() <= 8.8e9


def test_sizes_grow():
    with torch.device("meta"):
        sizes = [parameters_of(build_model(f"yolo_{letter}", 80)) for letter in "nsmlx"]
    for smaller, larger in pairwise(sizes):
        assert larger > 1.3 * smaller


def targets_of(boxes, labels):
    count = len(boxes)
    padded, row = torch.zeros(1, count + 1, 4), torch.full((1, count + 1), -1)
    padded[0, :count], row[0, :count] = torch.tensor(boxes), torch.tensor(labels)
    return Targets(padded, row, row >= 0, torch.zeros_like(row, dtype=torch.bool))


def test_perfect_outputs_cost_little_and_decode_to_the_objects():
    # each object's places predict its very distances (bins of 1 stride apart) and its class: CIoU 1, sharp bins
    model = build_model("yolo_n", 3, width=0.03).eval()
    truth = torch.tensor([[8.0, 8, 56, 40], [72, 16, 120, 88]])
    targets = targets_of(truth.tolist(), [2, 0])
    with torch.no_grad():
        outputs = model(torch.zeros(1, 3, 96, 128))
    points, strides = outputs.anchors, outputs.strides
    logits = torch.full_like(outputs.logits, -20.0)
    distances = torch.zeros(1, len(points), 4)
    for box, label in zip(truth, (2, 0)):
        inside = ((points > box[:2]) & (points < box[2:])).all(-1)
        logits[0, inside, label] = 20.0
        sides = torch.cat([points - box[:2], box[2:] - points], -1) / strides[:, None]
        distances[0, inside] = sides[inside]
    lower = distances.floor()
    bins = torch.arange(16.0)
    share = (1 - (bins - distances[..., None]).abs()).clamp(min=1e-9)  # between the two bins around the distance
    perfect = DenseOutputs(logits, share.log().flatten(2), points, strides)
    losses = model.loss(perfect, targets)
    assert losses["box"] < 1e-2
    # half the mass on either of two bins costs log 2 at most; the rest of the loss is 0
    assert losses["distribution"] <= 0.7
    assert (lower >= 0).all()
    (found,) = model.decode(perfect, torch.tensor([[96, 128]]))
    assert len(found) == 2
    assert sorted(found.labels.tolist()) == [0, 2]
    torch.testing.assert_close(found.boxes[found.labels.argsort()], truth[[1, 0]], atol=1e-2, rtol=0)


def test_learns_one_picture():
    torch.manual_seed(0)
    model = build_model("yolo_n", 2, depth=0.3, width=0.06).train()
    images = torch.rand(1, 3, 64, 64)
    images[..., 10:40, 20:50] += 1.5
    targets = targets_of([[20.0, 10, 50, 40]], [1])
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    step = TrainStep(model)
    totals = []
    for _ in range(40):
        total = sum(step(images, targets).values())
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        totals.append(float(total.detach()))
    assert totals[-1] < 0.35 * totals[0]


def test_loss_does_not_depend_on_padding_or_order():
    torch.manual_seed(0)
    model = build_model("yolo_n", 3, depth=0.3, width=0.03).eval()
    outputs = model(torch.rand(1, 3, 64, 64))
    boxes, labels = [[4.0, 4, 40, 40], [20, 24, 60, 50]], [0, 2]
    expected = model.loss(outputs, targets_of(boxes, labels))
    swapped = targets_of(boxes[::-1], labels[::-1])
    fields = (swapped.boxes, swapped.labels, swapped.valid, swapped.crowd)
    more = Targets(*(torch.cat([field, field[:, -1:], field[:, -1:]], 1) for field in fields))
    for key, value in model.loss(outputs, more).items():
        torch.testing.assert_close(value, expected[key])


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_weights_of_the_losses(scale):
    model = build_model("yolo_n", 3, depth=0.3, width=0.03).eval()
    other = copy.deepcopy(model)
    other.weights = {name: value * scale for name, value in model.weights.items()}
    outputs = model(torch.rand(1, 3, 64, 64))
    targets = targets_of([[4.0, 4, 40, 40]], [1])
    for name, value in model.loss(outputs, targets).items():
        torch.testing.assert_close(other.loss(outputs, targets)[name], scale * value)
