"""Losses by name in the models that are no segmenters: every option trains, and is what the library's function says."""

import pytest
import torch

from vision.losses.boxes import balanced_l1_loss, box_iou_loss
from vision.losses.classification import binary_cross_entropy, sigmoid_focal_loss, varifocal_loss
from vision.losses.compose import SegmentationLoss
from vision.losses.detection import BOX_LOSSES, CLASS_LOSSES, OFFSET_LOSSES
from vision.models import TrainStep, build_model
from vision.ops.anchor_match import default_box_assignment
from vision.ops.assign import centre_assignment, task_aligned_assignment
from vision.ops.boxes import paired_iou
from vision.ops.coders import decode_boxes, encode_boxes
from vision.structures import Targets

PYRAMID = {"backbone": "resnet18", "width": 64, "depth": 1, "backbone_options": {"width": 0.25}}
SMALL = {
    "yolo_n": {"depth": 0.3, "width": 0.03},
    "fcos_resnet18_fpn": PYRAMID,
    "retinanet_resnet50_fpn": PYRAMID,
    "ssd300_vgg16": {"width": 0.0625},
}
OFFSETS = ("retinanet_resnet50_fpn", "ssd300_vgg16")
SCORED = [name for name in SMALL if name != "ssd300_vgg16"]  # SSD has a softmax


def built(name, **options):
    torch.manual_seed(0)
    return build_model(name, 3, **SMALL[name], **options)


def batch_of(images=2):
    """Images of 64 pixels: two objects, and a crowd alone."""
    pictures = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[[4.0, 6, 44, 50], [20, 10, 60, 40]], [[0, 0, 9, 9], [0, 0, 0, 0]]])
    labels = torch.tensor([[0, 2], [1, -1]])
    crowd = torch.tensor([[False, False], [True, False]])
    return pictures[:images], Targets(boxes[:images], labels[:images], labels[:images] >= 0, crowd[:images])


def check_step(model):
    images, targets = batch_of()
    losses = TrainStep(model.train())(images, targets)
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
    assert losses["box"] > 0
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("loss", [*OFFSET_LOSSES, *BOX_LOSSES, {"name": "ciou", "alpha": 3}], ids=str)
@pytest.mark.parametrize("name", SMALL)
def test_a_step_with_each_box_loss(name, loss):
    if loss in list(OFFSET_LOSSES) and name not in OFFSETS:
        with pytest.raises(ValueError, match=f"box_loss = '{loss}'; expected one of iou, giou, diou, ciou, eiou, siou"):
            built(name, box_loss=loss)
    else:
        check_step(built(name, box_loss=loss))


@pytest.mark.parametrize("loss", CLASS_LOSSES)
@pytest.mark.parametrize("name", SCORED)
def test_a_step_with_each_class_loss(name, loss):
    model = built(name, class_loss=loss)
    check_step(model)
    with torch.no_grad():
        (found,) = model.eval().decode(model(batch_of(1)[0]), torch.tensor([[64, 64]]), score_threshold=0.0)
    assert len(found) > 0


@pytest.mark.parametrize("name", SMALL)
def test_unknown_names_are_refused_with_the_list(name):
    first = "l1, smooth_l1" if name in OFFSETS else "iou, giou"
    with pytest.raises(ValueError, match=f"box_loss = 'niou'; expected one of {first}"):
        built(name, box_loss="niou")
    if name in SCORED:
        with pytest.raises(ValueError, match="class_loss = 'ce'; expected one of bce, focal, quality_focal, varifocal"):
            built(name, class_loss="ce")


def assigned(model, name, outputs, targets):
    if name == "yolo_n":
        everywhere = torch.arange(len(outputs.anchors))[None]
        boxes = model.boxes_at(outputs, everywhere)
        return task_aligned_assignment(outputs.logits.sigmoid(), boxes, outputs.anchors, targets)
    if name == "fcos_resnet18_fpn":
        return centre_assignment(outputs.anchors, outputs.strides, targets)
    if name == "ssd300_vgg16":
        return default_box_assignment(outputs.anchors, targets)
    return model.assign(outputs, targets)


def positives(model, name):
    """Outputs and targets of one image, its losses, which places count, and place, object, weight and box of each
    positive."""
    images, targets = batch_of(1)
    with torch.no_grad():
        outputs = model.eval()(images)
        assignment = assigned(model, name, outputs, targets)
        places = (assignment.index[0] >= 0).nonzero()[:, 0]
        rows, weights = assignment.index[0, places], assignment.weight[0, places]
        boxes = model.boxes_at(outputs, places[None])[0]
        losses = model.loss(outputs, targets)
    assert len(places) > 1
    return outputs, targets, losses, assignment.index >= -1, places, rows, weights, boxes


@pytest.mark.parametrize("name", SMALL)
def test_box_loss_is_the_function_of_the_positives(name):
    model = built(name, box_loss={"name": "eiou", "alpha": 2})
    _, targets, losses, _, _, rows, weights, boxes = positives(model, name)
    expected = box_iou_loss(boxes, targets.boxes[0, rows], kind="eiou", alpha=2, weight=weights) / weights.sum()
    torch.testing.assert_close(losses["box"], expected * (5 if name == "yolo_n" else 1))


def test_balanced_l1_is_of_the_offsets():
    model = built("retinanet_resnet50_fpn", box_loss="balanced_l1")
    outputs, targets, losses, _, places, rows, *_ = positives(model, "retinanet_resnet50_fpn")
    wanted = encode_boxes(targets.boxes[0, rows], outputs.anchors[places])
    expected = balanced_l1_loss(outputs.deltas[0, places], wanted) / len(places)
    torch.testing.assert_close(losses["box"], expected)


@pytest.mark.parametrize(
    ("loss", "function"),
    [("varifocal", varifocal_loss), ("focal", sigmoid_focal_loss), ("bce", binary_cross_entropy)],
)
@pytest.mark.parametrize("name", SCORED)
def test_class_loss_is_the_function_of_all_places(name, loss, function):
    model = built(name, class_loss=loss)
    outputs, targets, losses, counted, places, rows, weights, boxes = positives(model, name)
    overlaps = paired_iou(boxes, targets.boxes[0, rows])
    scores = {"varifocal": overlaps, "focal": torch.ones(len(places)), "bce": weights}[loss]
    wanted = torch.zeros_like(outputs.logits)
    for place, row, score in zip(places, rows, scores):
        wanted[0, place, targets.labels[0, row]] = score
    expected = function(outputs.logits, wanted, weight=counted[..., None], reduction="sum") / weights.sum()
    torch.testing.assert_close(losses["class"], expected)


@pytest.mark.parametrize("name", SCORED)
def test_the_overlap_that_a_score_learns_is_held_constant(name):
    model = built(name, class_loss="quality_focal").eval()
    images, targets = batch_of(1)
    outputs = model(images)
    (gradient,) = torch.autograd.grad(model.loss(outputs, targets)["class"], outputs.deltas, allow_unused=True)
    assert gradient is None or not gradient.any()


def test_overlap_takes_the_place_of_centreness():
    model = built("fcos_resnet18_fpn", class_loss="varifocal").eval()
    outputs = model(batch_of(1)[0])
    assert outputs.quality is None
    torch.testing.assert_close(model.scores(outputs.logits), outputs.logits.sigmoid())
    assert "centre" not in model.loss(outputs, batch_of(1)[1])
    assert (model.score_threshold, built("fcos_resnet18_fpn").score_threshold) == (0.05, 0.2)


@pytest.mark.parametrize(
    "name", ["fcos_resnet18_fpn", *(pytest.param(name, marks=pytest.mark.slow) for name in SCORED if name[0] != "f")]
)
def test_a_step_with_other_losses_compiles_into_one_graph(name):
    torch._dynamo.reset()
    step = TrainStep(built(name, box_loss={"name": "siou", "alpha": 3}, class_loss="varifocal").train())
    images, targets = batch_of()
    expected = step(images, targets)
    for key, value in torch.compile(step, fullgraph=True, backend="aot_eager")(images, targets).items():
        torch.testing.assert_close(value, expected[key], atol=1e-3, rtol=1e-3)


REGIONS = {
    "backbone": "resnet18",
    "width": 16,
    "hidden": 16,
    "settings": {"train_per_level": 20, "train_proposals": 16, "roi_batch": 16},
    "backbone_options": {"width": 0.25},
}


@pytest.mark.parametrize("loss", [*OFFSET_LOSSES, *BOX_LOSSES, {"name": "giou", "weight": 10}], ids=str)
def test_a_step_of_two_stages_with_each_box_loss(loss):
    torch.manual_seed(0)
    settings = {**REGIONS["settings"], "box_loss": loss, "rpn_box_loss": loss}
    model = build_model("cascade_rcnn", 3, **{**REGIONS, "settings": settings})
    images, targets = batch_of()
    losses = TrainStep(model.train())(images, targets)
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
    assert all(losses[name] > 0 for name in ("rpn_box", "box", "box2", "box3"))
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


def test_box_losses_of_two_stages_are_the_functions_of_the_positives():
    torch.manual_seed(0)
    loss = {"name": "giou", "weight": 10}
    model = build_model("faster_rcnn", 3, **{**REGIONS, "settings": {**REGIONS["settings"], "box_loss": loss}}).eval()
    images, targets = batch_of(1)
    outputs = model(images, targets)
    (stage,) = outputs.stages
    positive = stage.index[0] >= 0
    rows = stage.index[0, positive]
    deltas = stage.deltas[0, positive, targets.labels[0, rows]]
    boxes = decode_boxes(deltas, stage.boxes[0, positive], model.settings.box_weights[0])
    expected = 10 * box_iou_loss(boxes, targets.boxes[0, rows], kind="giou") / (stage.index >= -1).sum()
    assert positive.sum() > 1
    torch.testing.assert_close(model.loss(outputs, targets)["box"], expected)


@pytest.mark.parametrize("key", ["box_loss", "rpn_box_loss"])
def test_unknown_box_losses_of_two_stages_are_refused(key):
    with pytest.raises(ValueError, match=f"{key} = 'l2'; expected one of l1, smooth_l1"):
        build_model("mask_rcnn", 3, **{**REGIONS, "settings": {key: "l2"}})


def test_a_weight_is_a_factor():
    plain, heavy = (built("fcos_resnet18_fpn", box_loss={"name": "giou", "weight": weight}) for weight in (1, 3))
    (*_, one), (*_, three) = (positives(model, "fcos_resnet18_fpn")[:3] for model in (plain, heavy))
    torch.testing.assert_close(three["box"], 3 * one["box"])
    with pytest.raises(ValueError, match="weight"):
        built("fcos_resnet18_fpn", box_loss={"name": "giou", "weight": -1})


def test_semantic_branch_of_panoptic_fpn_takes_the_losses_of_segmentation():
    spec = {"dice": 1.0, "boundary": {"weight": 0.5, "from_epoch": 2}}
    torch.manual_seed(0)
    model = build_model("panoptic_fpn", 3, semantic_loss=spec, **REGIONS).eval()
    images, targets = batch_of()
    semantic = torch.zeros(2, 64, 64, dtype=torch.int64)
    semantic[:, 20:, :30] = 2
    targets = Targets(
        targets.boxes, targets.labels, targets.valid, targets.crowd, torch.ones(3, 64, 64, dtype=torch.bool),
        torch.tensor([0, 2]), semantic,
    )  # fmt: skip
    outputs = model(images, targets)
    logits = model._full_size(outputs.semantic, (64, 64))
    for model.epoch in (0, 2):
        losses = model.loss(outputs, targets)
        expected = sum(SegmentationLoss(spec, 3)(logits, semantic, model.epoch).values())
        torch.testing.assert_close(losses["semantic"], 0.5 * expected)
    losses["semantic"].backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.semantic_head.parameters())
    with pytest.raises(ValueError, match="loss 'entropy' is not known; choose from: cross_entropy"):
        build_model("panoptic_fpn", 3, semantic_loss="entropy", **REGIONS)
