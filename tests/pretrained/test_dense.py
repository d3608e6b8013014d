"""torchvision's one-stage detectors with random weights against ours with the same: outputs, detections, losses."""

import functools

import pytest
import torch
import torchvision
from torch import nn

from vision.models import build_model
from vision.pretrained.dense import DENSE_CONVERTERS, load_dense_state
from vision.structures import Targets

CLASSES = 4
# options under which ours computes what torchvision's does
OPTIONS = {"retinanet_resnet50_fpn_v2": {"assignment": "overlap"}}
SIZES = [(128, 160), (97, 131)]
FIXED = {"ssd300_vgg16": 300, "ssdlite320_mobilenet_v3_large": 320}


@functools.lru_cache(maxsize=1)
def pair(name):
    """torchvision's model and ours with the same random weights, made to find many objects."""
    torch.manual_seed(0)
    build = getattr(torchvision.models.detection, name)
    theirs = build(weights=None, weights_backbone=None, num_classes=CLASSES + 1).eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.0)
    for key, parameter in theirs.head.named_parameters():
        final = "cls_logits" in key or "bbox" in key or "module_list" in key
        if final and key.endswith("weight") and parameter.ndim == 4:
            nn.init.normal_(parameter, std=0.5 / parameter[0].numel() ** 0.5)
        elif "cls_logits" in key:
            nn.init.normal_(parameter, std=0.5)
    if name.startswith("ssdlite"):
        fit_norms(theirs)
    if not name.startswith("ssd"):  # column 0 is nobody's class, and ours has none: theirs shall find nothing there
        predictor = theirs.head.classification_head.cls_logits
        predictor.weight.data.unflatten(0, (-1, CLASSES + 1))[:, 0] = 0
        predictor.bias.data.unflatten(0, (-1, CLASSES + 1))[:, 0] = -100
    ours = build_model(DENSE_CONVERTERS[name][0], CLASSES, **OPTIONS.get(name, {})).eval()
    load_dense_state(ours, name, theirs.state_dict(), range(1, CLASSES + 1))
    return theirs, ours


def fit_norms(model):
    """Gives the batch norms the statistics of a picture: else all places score alike and rounding orders them."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    model.train()
    with torch.no_grad():
        model.head(list(model.backbone(torch.randn(4, 3, 320, 320)).values()))
    model.eval()


def picture(name, size, count=1):
    size = (FIXED[name],) * 2 if name in FIXED else size
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(sum(size)))


def same_size(theirs, images):
    """Keeps torchvision's transform from resizing."""
    if not theirs.transform.fixed_size:
        theirs.transform.min_size, theirs.transform.max_size = (min(images.shape[-2:]),), max(images.shape[-2:])


def sizes_of(name):
    return SIZES[:1] if name in FIXED else SIZES


CASES = [(name, size) for name in DENSE_CONVERTERS for size in sizes_of(name)]


@pytest.mark.parametrize(("name", "size"), CASES)
def test_same_outputs_and_detections(name, size):
    theirs, ours = pair(name)
    images = picture(name, size)
    same_size(theirs, images)
    raw = {}
    handle = theirs.head.register_forward_hook(lambda module, args, output: raw.update(output))
    with torch.no_grad():
        (expected,) = theirs(list(images))
        outputs = ours(images)
        found = ours.decode(outputs, torch.tensor([images.shape[-2:]]))[0]
    handle.remove()
    logits = raw["cls_logits"]
    columns = [*range(1, CLASSES + 1), 0] if name.startswith("ssd") else range(1, CLASSES + 1)
    torch.testing.assert_close(outputs.logits, logits[..., list(columns)], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(outputs.deltas, raw["bbox_regression"], atol=1e-4, rtol=1e-4)
    if "bbox_ctrness" in raw:
        torch.testing.assert_close(outputs.quality, raw["bbox_ctrness"].squeeze(-1), atol=1e-4, rtol=1e-4)

    real = (expected["boxes"][:, 2:] > expected["boxes"][:, :2]).all(-1)  # ours drops boxes without area
    theirs_boxes, scores, labels = (expected[key][real] for key in ("boxes", "scores", "labels"))
    assert len(scores) > 20
    assert len(found) == len(scores) if real.all() else len(found) >= len(scores)
    # as sets, since equal scores may change places: one of ours with the same label, box and score for each of theirs
    same = found.labels + 1 == labels[:, None]
    same &= (found.boxes - theirs_boxes[:, None]).abs().amax(-1) < 0.02
    same &= (found.scores - scores[:, None]).abs() < 1e-4
    missing = int((~same.any(1)).sum())
    # rounding decides overlaps at the very threshold of NMS, which may exchange a box for another
    assert missing <= len(scores) // 100


TRUTH = [
    (torch.tensor([[10.0, 12, 70, 90], [30, 30, 52, 47], [5.3, 60.7, 121.1, 97.2]]), torch.tensor([0, 3, 1])),
    (torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)),
]
LOSS_NAMES = {
    "class": "classification",
    "box": "bbox_regression",
    "centre": "bbox_ctrness",
}


@pytest.mark.parametrize("name", DENSE_CONVERTERS)
def test_same_losses(name):
    theirs, ours = pair(name)
    images = picture(name, (128, 160), count=2)
    same_size(theirs, images)
    targets = [{"boxes": boxes, "labels": labels + 1} for boxes, labels in TRUTH]
    boxes, labels = torch.zeros(2, 4, 4), torch.full((2, 4), -1)
    boxes[0, :3], labels[0, :3] = TRUTH[0]
    padded = Targets(boxes, labels, labels >= 0, torch.zeros_like(labels, dtype=torch.bool))
    try:
        for norm in (module for module in theirs.modules() if isinstance(module, nn.BatchNorm2d)):
            norm.train(False)
        theirs.training = theirs.transform.training = True  # losses, but with the batch norms of evaluation
        with torch.no_grad():
            expected = theirs(list(images), targets)
            found = ours.loss(ours(images), padded)
    finally:
        theirs.eval()
    for key, value in found.items():
        torch.testing.assert_close(value, expected[LOSS_NAMES[key]], atol=1e-4, rtol=1e-4)
    assert found["box"] > 0


def test_published_retinanet_keys_are_older():
    theirs, ours = pair("retinanet_resnet50_fpn")
    old = {}
    for key, value in theirs.state_dict().items():
        key = key.replace("_blocks.0.0.", "_blocks.0.").replace("_blocks.1.0.", "_blocks.1.")
        key = key.replace("_blocks.2.0.", "_blocks.2.")
        if "head" in key and ".conv." in key:
            head, rest = key.split(".conv.")
            position, _, kind = rest.split(".")
            key = f"{head}.conv.{2 * int(position)}.{kind}"
        old[key] = value
    assert set(old) != set(theirs.state_dict())
    load_dense_state(ours, "retinanet_resnet50_fpn", old, range(1, CLASSES + 1))


def test_weights_made_without_an_epsilon():
    theirs, ours = pair("retinanet_resnet50_fpn")
    images = picture("retinanet_resnet50_fpn", (64, 96))
    norms = [module for module in theirs.modules() if isinstance(module, nn.BatchNorm2d)]
    try:
        for norm in norms:
            norm.running_var.mul_(1e-3)  # so that the epsilon of 1e-5 matters
            norm.eps = 0.0
        load_dense_state(ours, "retinanet_resnet50_fpn", theirs.state_dict(), range(1, CLASSES + 1), zero_epsilon=True)
        with torch.no_grad():
            expected = theirs.backbone.body(ours.prepare(images))["0"]
            found = ours.backbone(ours.prepare(images))[0]
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
            load_dense_state(ours, "retinanet_resnet50_fpn", theirs.state_dict(), range(1, CLASSES + 1))
            assert (ours.backbone(ours.prepare(images))[0] - expected).abs().max() > 1e-2 * expected.abs().max()
    finally:
        pair.cache_clear()


def test_coco_columns_skip_the_unused_ids():
    state = {f"head.classification_head.cls_logits.{k}": torch.arange(9.0 * 91) for k in ("weight", "bias")}
    state |= {f"head.regression_head.bbox_reg.{k}": torch.zeros(36) for k in ("weight", "bias")}
    converted = DENSE_CONVERTERS["retinanet_resnet50_fpn"][1](state, [1, 13, 90])
    assert converted["head.class_logits.bias"].view(9, 3)[2].tolist() == [183, 195, 272]  # 2 * 91 + column
    with pytest.raises(ValueError, match="91 class columns"):
        DENSE_CONVERTERS["retinanet_resnet50_fpn"][1](state, [91])


def test_another_models_keys_are_named():
    with pytest.raises(KeyError, match=r"rpn\.head"):
        DENSE_CONVERTERS["fcos_resnet50_fpn"][1]({"rpn.head.weight": torch.zeros(1)}, [1])
