"""torchvision's two-stage detectors and ours: same weights, same image -> same raw outputs, detections and losses."""

import functools

import pytest
import torch
import torchvision.models.detection as oracle
from torch import nn
from torchvision.models.detection.rpn import concat_box_prediction_layers

from vision.models.faster_rcnn import build_faster_rcnn
from vision.models.mask_rcnn import build_mask_rcnn
from vision.pretrained.torchvision_two_stage import convert_two_stage_state, load_two_stage_state
from vision.structures import ClassMap, Targets

CLASSES = 5
# limits that keep the second stage small, and samples that take everything, so that both draw the same
THEIRS = {
    "rpn_pre_nms_top_n_test": 40, "rpn_post_nms_top_n_test": 20, "rpn_pre_nms_top_n_train": 40,
    "rpn_post_nms_top_n_train": 20, "rpn_batch_size_per_image": 10**6, "box_batch_size_per_image": 10**6,
    "box_positive_fraction": 0.9, "box_score_thresh": 0.05,
}  # fmt: skip
OURS = {
    "per_level": 40, "proposals": 20, "train_per_level": 40, "train_proposals": 20, "rpn_batch": 10**6,
    "roi_batch": 10**6, "roi_fraction": 0.9,
}  # fmt: skip
# torchvision builds the MobileNets of its detectors with norms of another epsilon than its MobileNets have alone;
# its checkpoints have frozen ones of that same epsilon
MOBILE = {"backbone": "mobilenet_v3_large", "backbone_options": {"norm": "frozen_batch"}}
MODELS = {
    "fasterrcnn_resnet50_fpn": (build_faster_rcnn, {}),
    "fasterrcnn_resnet50_fpn_v2": (build_faster_rcnn, {"recipe": "v2"}),
    "fasterrcnn_mobilenet_v3_large_fpn": (build_faster_rcnn, MOBILE),
    "fasterrcnn_mobilenet_v3_large_320_fpn": (build_faster_rcnn, MOBILE),
    "maskrcnn_resnet50_fpn": (build_mask_rcnn, {}),
    "maskrcnn_resnet50_fpn_v2": (build_mask_rcnn, {"recipe": "v2"}),
}
LIGHT = ["maskrcnn_resnet50_fpn", "fasterrcnn_mobilenet_v3_large_320_fpn"]
HEAVY = [pytest.param(name, marks=pytest.mark.slow) for name in MODELS if name not in LIGHT]


@torch.no_grad()
def randomise(model):
    """Statistics away from 0 and 1; scores and offsets large enough to decide something."""
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.75, 1.25)
            module.weight.uniform_(0.8, 1.0)
            module.bias.normal_(std=0.05)
        if name.endswith(("cls_logits", "cls_score", "mask_fcn_logits", "bbox_pred")):
            module.weight.mul_({"rpn.head.cls_logits": 30, "rpn.head.bbox_pred": 3}.get(name, 1.0))
            module.bias.normal_(std=0.1)
    return model


@functools.lru_cache(maxsize=1)
def pair(name):
    torch.manual_seed(0)
    few = {"box_detections_per_img": 12} if name.startswith("mask") else {}  # masks are what takes long
    build_theirs = getattr(oracle, name)
    theirs = build_theirs(weights=None, weights_backbone=None, num_classes=CLASSES + 1, **THEIRS, **few)
    randomise(theirs)
    theirs.eval()
    with torch.no_grad():  # features of size 1, so that no two scores are equal but for rounding
        size = next(iter(theirs.backbone(picture(64, 96)[None]).values())).std()
        for key, parameter in theirs.backbone.fpn.named_parameters():
            parameter.div_(size if "inner_blocks" in key and parameter.ndim == 4 else 1)
    build, options = MODELS[name]
    settings = dict(
        OURS, rpn_score_threshold=theirs.rpn.score_thresh, max_detections=theirs.roi_heads.detections_per_img
    )
    ours = build(ClassMap.of(CLASSES), settings=settings, **options).eval()
    load_two_stage_state(ours, theirs.state_dict())
    return theirs, ours


def picture(height, width, seed=0):
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


def without_resizing(theirs, image):
    theirs.transform.min_size, theirs.transform.max_size = (min(image.shape[1:]),), max(image.shape[1:])


def pairing(found, expected):
    """For each of their detections its nearest of ours: regions that read the same cells score exactly alike, and
    rounding then decides their order."""
    torch.testing.assert_close(found.scores, expected["scores"], atol=1e-4, rtol=1e-4)  # as they come, by rank
    mine = torch.cat([found.boxes, 1e4 * found.labels[:, None]], 1)
    theirs = torch.cat([expected["boxes"], 1e4 * (expected["labels"][:, None] - 1)], 1)
    nearest = torch.cdist(theirs.double(), mine.double()).argmin(1)
    assert nearest.unique().numel() == len(mine)
    return nearest


@pytest.mark.parametrize("size", [(64, 96), (75, 101)])
@pytest.mark.parametrize("name", [*LIGHT, *HEAVY])
def test_same_raw_outputs_and_detections(name, size):
    theirs, ours = pair(name)
    image = picture(*size)
    without_resizing(theirs, image)
    with torch.no_grad():
        prepared, _ = theirs.transform([image])
        features = theirs.backbone(prepared.tensors)
        logits, deltas = theirs.rpn.head(list(features.values()))
        outputs = ours(image[None])
        expected = theirs([image])[0]
        found = ours.decode(outputs, torch.tensor([size]))[0]
    for feature, wanted in zip(outputs.features, features.values()):
        torch.testing.assert_close(feature, wanted, atol=1e-4, rtol=1e-4)
    logits, deltas = concat_box_prediction_layers(logits, deltas)
    torch.testing.assert_close(outputs.rpn.logits.flatten(), logits.flatten(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(outputs.rpn.deltas.flatten(0, 1), deltas, atol=1e-4, rtol=1e-4)
    assert len(found) == len(expected["boxes"]) > 3
    found = found.select(pairing(found, expected))
    torch.testing.assert_close(found.boxes, expected["boxes"], atol=1e-2, rtol=1e-4)
    torch.testing.assert_close(found.scores, expected["scores"], atol=1e-4, rtol=1e-4)
    assert torch.equal(found.labels, expected["labels"] - 1)
    if "masks" in expected:
        share = expected["masks"][:, 0]
        decided = (share - 0.5).abs() > 1e-3
        assert torch.equal(found.masks[decided], (share >= 0.5)[decided])
        assert found.masks.any()


def make_targets(size):
    boxes = torch.tensor([[4.0, 6, 40, 50], [30, 10, 90, 60], [50, 30, 58, 39]])
    labels = torch.tensor([0, 3, 4])
    masks = torch.rand(3, *size, generator=torch.Generator().manual_seed(3)) > 0.3
    valid = torch.ones(1, 3, dtype=torch.bool)
    ours = Targets(boxes[None], labels[None], valid, ~valid, masks, torch.zeros(1, dtype=torch.long))
    return ours, [{"boxes": boxes, "labels": labels + 1, "masks": masks.byte()}]


@pytest.mark.parametrize("name", [*LIGHT, *HEAVY])
def test_same_losses_on_the_same_samples(name):
    theirs, ours = pair(name)
    image = picture(64, 96, seed=1)
    without_resizing(theirs, image)
    mine, yours = make_targets((64, 96))
    theirs.train()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    with torch.no_grad():
        expected = theirs([image], yours)
        losses = ours.loss(ours(image[None], mine), mine)
    theirs.eval()
    names = {
        "rpn_objectness": "loss_objectness", "rpn_box": "loss_rpn_box_reg", "class": "loss_classifier",
        "box": "loss_box_reg", "mask": "loss_mask",
    }  # fmt: skip
    assert {names[key] for key in losses} == set(expected)
    for key, value in losses.items():
        torch.testing.assert_close(value, expected[names[key]], atol=1e-4, rtol=1e-4)
        assert value > 0


def test_columns_of_91_become_the_classes_asked_for():
    columns = [1, 3, 90]
    state = {
        "roi_heads.box_predictor.cls_score.weight": torch.arange(91.0)[:, None],
        "roi_heads.box_predictor.bbox_pred.bias": torch.arange(91.0 * 4),
        "roi_heads.mask_predictor.mask_fcn_logits.bias": torch.arange(91.0),
    }
    converted = convert_two_stage_state(state, columns)
    assert converted["stages.0.predictor.cls_score.weight"].flatten().tolist() == [1, 3, 90, 0]
    assert converted["stages.0.predictor.bbox_pred.bias"].tolist() == [4, 5, 6, 7, 12, 13, 14, 15, 360, 361, 362, 363]
    assert converted["mask_head.mask_fcn_logits.bias"].tolist() == [1, 3, 90]
    with pytest.raises(ValueError, match=r"1\.\.90"):
        convert_two_stage_state(state, [0])


def test_keys_of_old_checkpoints_and_norms_without_an_epsilon():
    state = {
        "roi_heads.box_predictor.cls_score.weight": torch.zeros(3, 1),
        "backbone.fpn.inner_blocks.2.weight": torch.zeros(1),
        "rpn.head.conv.bias": torch.zeros(1),
        "roi_heads.mask_head.mask_fcn2.weight": torch.zeros(1),
        "backbone.body.bn1.running_var": torch.ones(1),
    }
    converted = convert_two_stage_state(state, zero_epsilon=True)
    assert set(converted) == {
        "stages.0.predictor.cls_score.weight", "neck.inner_blocks.2.0.weight", "rpn.conv.0.0.bias",
        "mask_head.convs.1.0.weight", "backbone.bn1.running_var",
    }  # fmt: skip
    assert converted["backbone.bn1.running_var"].item() == pytest.approx(1 - 1e-5)
