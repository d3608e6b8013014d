"""Every model through every promise of the model contract. A new model joins by one line in `small_models.py`."""

import copy
import dataclasses
import functools

import pytest
import torch
from small_models import DISTINCT, SMALL, options_of, small_model
from torch.utils import _pytree as pytree

from vision.engine.inference import ready_model
from vision.layers.fuse import FusedConv2d
from vision.layers.norm import FrozenBatchNorm
from vision.models import MODELS, TrainStep, build_model
from vision.structures import Detections, Segmentation, Targets

# what only some models do not keep, each with its reason
EXCEPTIONS: dict[tuple[str, str], str] = {}
# modules whose models are of the family of another module's
KIN = {"vision.models.mask_rcnn", "vision.models.cascade_rcnn", "vision.models.panoptic_fpn"}


def models(promise, representative=False):
    """All models; where `representative` only one of each family by default, the others marked slow."""
    seen, params = set(KIN), []
    for name in SMALL:
        family = MODELS.get(name, ":").split(":")[0]
        marks = [pytest.mark.slow] if representative and family in seen else []
        if (promise, name) in EXCEPTIONS:
            marks.append(pytest.mark.skip(reason=EXCEPTIONS[promise, name]))
        seen.add(family)
        params.append(pytest.param(name, marks=marks))
    return pytest.mark.parametrize("name", params)


@functools.lru_cache(maxsize=2)
def _built(name, classes):
    return small_model(name, classes)


def built(name, classes=3):
    """A fresh copy of the small model, in evaluation mode, channels_last."""
    return copy.deepcopy(_built(name, classes)).eval().to(memory_format=torch.channels_last)


def pictures(batch=2, height=64, width=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, 3, height, width), generator=generator, dtype=torch.uint8)


def targets_of(images, classes=3, objects=(2, 0), crowd=False):
    """Targets of a batch: `objects` boxes in each image, masks and a semantic map with some of it to ignore."""
    batch, height, width = len(images), *images.shape[-2:]
    rows = max(1, *objects)
    base = torch.tensor([[4.0, 6, 44, 50], [20, 10, 60, 40], [2, 2, 12, 12]])[torch.arange(rows) % 3]
    boxes = base.expand(batch, rows, 4) * torch.tensor([width, height, width, height]) / 64
    valid = torch.arange(rows) < torch.tensor(objects)[:, None]
    labels = torch.where(valid, torch.arange(rows) % classes, -1)
    x, y = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    flat = boxes[valid]
    masks = ((x > flat[:, :1]) & (x < flat[:, 2:3]))[:, None] & ((y > flat[:, 1:2]) & (y < flat[:, 3:]))[..., None]
    start = torch.tensor([0, *objects[:-1]]).cumsum(0)
    semantic = torch.zeros(batch, height, width, dtype=torch.int64)
    if any(objects):
        semantic[:, height // 2 :, : width // 2] = min(1, classes - 1)
    semantic[:, :4] = 255
    crowds = valid & (torch.arange(rows) == 1) if crowd else torch.zeros_like(valid)
    return Targets(boxes * valid[..., None], labels, valid, crowds, masks, start, semantic)


def train_losses(model, images, targets):
    losses = TrainStep(model.train())(images, targets)
    sum(losses.values()).backward()
    return losses


def check_losses(model, losses):
    assert losses
    for name, value in losses.items():
        assert value.ndim == 0, name
        assert value.dtype == torch.float32, name
        assert value.isfinite(), name
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{name} has no gradient"
            assert parameter.grad.isfinite().all(), f"{name} has a gradient that is not finite"


def leaves(outputs):
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, torch.Tensor)]


def check_decoded(model, results, sizes):
    assert len(results) == len(sizes)
    for result, (height, width) in zip(results, sizes.tolist()):
        if isinstance(result, Segmentation):
            assert result.labels.shape == (height, width)
            assert result.labels.dtype == torch.int64
            known = (result.labels >= 0) & (result.labels < len(model.classes))
            # a pixel has one of several classes; the only class, or none
            assert (known | ((result.labels == model.classes.ignore) & (len(model.classes) == 1))).all()
            continue
        assert isinstance(result, Detections)
        count = len(result)
        assert result.boxes.shape == (count, 4)
        assert result.scores.shape == result.labels.shape == (count,)
        assert (result.boxes >= 0).all()
        assert (result.boxes <= torch.tensor([width, height, width, height])).all()
        assert (result.boxes[:, 2:] >= result.boxes[:, :2]).all()
        assert ((result.scores >= 0) & (result.scores <= 1)).all()
        assert (result.scores.diff() <= 0).all()
        assert ((result.labels >= 0) & (result.labels < len(model.classes))).all()
        if result.masks is not None:
            assert result.masks.shape == (count, height, width)


def test_table_names_every_model():
    assert set(SMALL) == set(MODELS), "give each model of MODELS its line in SMALL"


@models("forward")
def test_forward_does_not_depend_on_training_and_takes_odd_sizes(name):
    model = built(name)
    images = pictures(height=67, width=81)
    with torch.no_grad():
        evaluated = model(images)
        trained = model.train()(images)
    assert type(evaluated) is type(trained)
    assert pytree.tree_structure(evaluated) == pytree.tree_structure(trained)
    for a, b in zip(leaves(evaluated), leaves(trained)):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert a.isfinite().all() or not a.is_floating_point()
    sizes = torch.tensor([[67, 81], [50, 60]])  # the second is smaller than its batch
    check_decoded(model, model.eval().decode(evaluated, sizes), sizes)


@models("loss")
def test_losses_are_finite_and_reach_every_parameter(name):
    model = built(name)
    images = pictures(height=65, width=70)
    check_losses(model, train_losses(model, images, targets_of(images, objects=(3, 0), crowd=True)))


@models("empty")
def test_batch_without_objects(name):
    model = built(name)
    images = pictures()
    check_losses(model, train_losses(model, images, targets_of(images, objects=(0, 0))))


@models("one")
def test_batch_of_one_and_one_class(name):
    model = built(name, 1)
    images = pictures(batch=1)
    check_losses(model, train_losses(model, images, targets_of(images, classes=1, objects=(2,))))
    sizes = torch.tensor([[64, 64]])
    with torch.no_grad():
        check_decoded(model, model.eval().decode(model(images), sizes), sizes)


@pytest.mark.parametrize("name", DISTINCT)
def test_batch_of_one_small_image(name):
    images = pictures(batch=1, height=32, width=32)  # at stride 32 batch norm sees a single value
    # and a group norm of 32 channels too; these heads have more unless they are made small
    model = small_model(name, **{"semantic_fpn": {"width": 64}, "panoptic_fpn": {"width": 128}}.get(name, {}))
    check_losses(model, train_losses(model, images, targets_of(images, objects=(1,))))


@models("ignored")
def test_all_pixels_ignored_are_no_loss_but_a_gradient(name):
    model = built(name)
    if model.task not in ("semantic", "panoptic"):
        pytest.skip("objects have no pixels to ignore")
    images = pictures()
    targets = targets_of(images)
    targets = dataclasses.replace(targets, semantic=torch.full_like(targets.semantic, 255))
    losses = train_losses(model, images, targets)
    check_losses(model, losses)
    pixels = losses.values() if model.task == "semantic" else [losses["semantic"]]
    assert sum(float(value.detach()) for value in pixels) == 0


@models("many")
def test_many_classes(name):
    classes = 150 if _built(name, 3).task == "semantic" else 1000
    model = small_model(name, classes)
    images = pictures(batch=2)
    check_losses(model, train_losses(model, images, targets_of(images, classes=classes)))
    sizes = torch.tensor([[64, 64], [64, 64]])
    with torch.no_grad():
        check_decoded(model, model.eval().decode(model(images), sizes), sizes)


@models("decode")
def test_decode_keeps_its_arguments(name):
    model = built(name)
    if model.task == "semantic":
        pytest.skip("segmentation has no thresholds")
    images, sizes = pictures(), torch.tensor([[64, 64], [64, 64]])
    with torch.no_grad():
        outputs = model(images)
        plenty = model.decode(outputs, sizes, score_threshold=0.0, max_detections=50)
        few = model.decode(outputs, sizes, score_threshold=0.0, max_detections=5)
        none = model.decode(outputs, sizes, score_threshold=1.0)
    check_decoded(model, plenty, sizes)
    for all_found, some, nothing in zip(plenty, few, none):
        assert 0 < len(some) <= 5
        torch.testing.assert_close(some.scores, all_found.scores[: len(some)])
        assert len(nothing) == 0
        middle = float(all_found.scores[len(all_found) // 2])
        kept = model.decode(outputs, sizes, score_threshold=middle, max_detections=50)[0]
        assert (kept.scores > middle).all()


@models("precision")
def test_bfloat16_autocast_and_memory_layout(name):
    model = built(name)
    images = pictures()
    with torch.no_grad():
        expected = leaves(model(images))
        contiguous = leaves(built(name).to(memory_format=torch.contiguous_format)(images))
    for a, b in zip(contiguous, expected):
        if a.shape == b.shape and model.task != "instance":
            torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model.train()(images, targets_of(images))
    losses = model.loss(outputs, targets_of(images))
    sum(losses.values()).backward()
    check_losses(model, losses)


@models("stored precision")
def test_weights_stored_for_inference_give_what_autocast_does(name):
    model, images = built(name), pictures(1)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected, sizes = model(images), torch.tensor([[64, 64]])
        ready = ready_model(model, torch.device("cpu"), "bf16", fold=False, fuse=False)
        found = ready(images)
    for a, b in zip(leaves(found), leaves(expected)):
        torch.testing.assert_close(a, b)
    check_decoded(model, ready.decode(found, sizes, score_threshold=0.0), sizes)


@models("ready for inference")
def test_models_made_ready_for_inference_compute_the_same(name):
    model, images = built(name), pictures()
    with torch.inference_mode():
        expected = model(images)
        ready = ready_model(model, torch.device("cpu"), "fp32")
        for a, b in zip(leaves(ready(images)), leaves(expected)):
            largest = float(b.float().abs().max().clamp(min=1))
            torch.testing.assert_close(a.float(), b.float(), rtol=1e-3, atol=1e-3 * largest)
    assert any(isinstance(module, FusedConv2d) for module in ready.modules())
    assert not any(isinstance(module, FusedConv2d) for module in model.modules())


@models("save")
def test_save_and_load_give_the_same_output(name, tmp_path):
    model = built(name)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    torch.manual_seed(1)
    again = build_model(name, 3, **SMALL[name]).eval().to(memory_format=torch.channels_last)
    again.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    with torch.no_grad():
        for a, b in zip(leaves(model(pictures())), leaves(again(pictures()))):
            assert torch.equal(a, b)


@models("bytes")
def test_bytes_and_fractions_are_the_same_image_and_other_channels_are_refused(name):
    model = built(name)
    images = pictures()
    torch.testing.assert_close(model.prepare(images), model.prepare(images / 255), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="expected"):
        model(images[:, :2])


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


@pytest.mark.parametrize("name", [name for name in SMALL if {"backbone", "backbone_options"} <= options_of(name)])
def test_options_of_the_backbone_win_over_the_models_own(name):
    options = {**SMALL[name].get("backbone_options", {}), "norm": "frozen_batch"}
    model = small_model(name, backbone="resnet18", backbone_options=options)
    norms = [
        module for module in model.backbone.modules() if isinstance(module, FrozenBatchNorm | torch.nn.BatchNorm2d)
    ]
    assert norms
    assert all(isinstance(norm, FrozenBatchNorm) for norm in norms)
