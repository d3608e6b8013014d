"""Every model through the promises of the model contract that are about graphs: export, compilation, ONNX."""

import copy

import pytest
import torch
from contract import built, check_losses, leaves, models, pictures, targets_of

from vision.models import TrainStep


@models("export", representative=True)
def test_export(name):
    model = built(name)
    images = pictures(batch=1)
    with torch.no_grad():
        program = torch.export.export(model, (images,), strict=False)
        for a, b in zip(leaves(program.module()(images)), leaves(model(images))):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


class Proposing(torch.nn.Module):
    """A model with the first half of its decoding, of static shape: what an export without NMS holds."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images, sizes):
        return self.model.propose(self.model(images), sizes)


PROPOSING = [
    "yolo_n", "retinanet_resnet18_fpn", "fcos_resnet18_fpn", "ssd300_vgg16", "ssdlite320_mobilenet_v2",
    "centernet_resnet50",
]  # fmt: skip


def proposing_model(name):
    """The small model with its candidates as results; scores of CenterNet spread out, which are all alike at first."""
    model = built(name)
    if name.startswith("centernet"):
        for layer in (0, -1):
            torch.nn.init.normal_(model.head["heatmap"][layer].weight)
    return Proposing(model).eval()


def check_proposed(found, expected):
    """An export's boxes, scores and labels of one image against ours.

    Where a level has fewer places than are asked for, places of other levels fill the export up, with score -1; where a
    heat map has fewer peaks, other cells fill up both, with score 0 and in any order.
    Random weights give nearly equal scores, which rounding orders either way: rows are compared as a set, of which
    those at the cut of a level may differ.
    """
    boxes, scores, labels = (part[found[1] > 0] for part in found)
    expected = [part[expected[1] > 0] for part in expected]
    assert len(scores) > 10
    torch.testing.assert_close(scores.sort().values, expected[1].sort().values, atol=1e-4, rtol=1e-4)
    mine = torch.cat([boxes, labels[:, None]], 1)
    wanted = torch.cat([expected[0], expected[2][:, None]], 1)
    distance = torch.cdist(mine.double(), wanted.double())
    assert (distance.amin(1) > 1e-3).sum() <= 2
    assert (distance.amin(0) > 1e-3).sum() <= 2


@pytest.mark.parametrize("name", PROPOSING)
def test_a_fixed_number_of_boxes_exports(name):
    proposing, images, sizes = proposing_model(name), pictures(batch=1, width=96), torch.tensor([[64, 96]])
    with torch.no_grad():
        program = torch.export.export(proposing, (images, sizes), strict=False)
        exported, expected = program.module()(images, sizes), proposing(images, sizes)
    check_proposed(exported, expected)


@models("compile", representative=True)
def test_train_step_compiles_into_one_graph(name):
    torch._dynamo.reset()
    step = TrainStep(built(name).train())
    eager = copy.deepcopy(step)
    images = pictures()
    targets = targets_of(images)
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    torch.manual_seed(0)
    losses = compiled(images, targets)
    sum(losses.values()).backward()
    torch.manual_seed(0)
    for key, expected in eager(images, targets).items():
        torch.testing.assert_close(losses[key], expected, atol=1e-3, rtol=1e-3)
    check_losses(step, losses)


@pytest.mark.slow
@models("inductor")
def test_forward_compiles_with_inductor(name):
    torch._dynamo.reset()
    model = built(name)
    images = pictures(batch=1)
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True)(images)
        for a, b in zip(leaves(compiled), leaves(model(images))):
            torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)


@pytest.mark.slow
@models("onnx")
def test_onnx_gives_the_same_output(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = built(name)
    images = pictures(batch=1, height=64, width=96)
    torch.onnx.export(model, (images,), tmp_path / "model.onnx", dynamo=True)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.no_grad():
        expected = leaves(model(images))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(a), b, atol=1e-3, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROPOSING)
def test_onnx_gives_the_same_fixed_number_of_boxes(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    proposing, images, sizes = proposing_model(name), pictures(batch=1, width=96), torch.tensor([[64, 96]])
    torch.onnx.export(proposing, (images, sizes), tmp_path / "model.onnx", dynamo=True)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    inputs = dict(zip([put.name for put in session.get_inputs()], (images.numpy(), sizes.numpy())))
    found = [torch.from_numpy(part) for part in session.run(None, inputs)]
    with torch.no_grad():
        check_proposed(found, proposing(images, sizes))
