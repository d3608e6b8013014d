"""What two-stage detectors do beyond the contract: sampling, crowds, given proposals, cascades, panoptic pixels."""

import dataclasses

import pytest
import torch

from vision.models import build_model
from vision.models.faster_rcnn import build_faster_rcnn_c4, read_settings
from vision.structures import ClassMap, Targets

FEW = {"per_level": 20, "proposals": 16, "train_per_level": 20, "train_proposals": 16, "roi_batch": 16}
TINY = {"backbone": "resnet18", "width": 16, "hidden": 16, "settings": FEW, "backbone_options": {"width": 0.25}}


def tiny(name, **options):
    torch.manual_seed(0)
    return build_model(name, 3, **{**TINY, **options}).eval()


def make_targets(crowd=(False, False)):
    boxes = torch.tensor([[[4.0, 6, 44, 50], [20, 10, 60, 40]]])
    valid, crowd = torch.tensor([[True, True]]), torch.tensor([crowd])
    masks = torch.ones(2, 64, 64, dtype=torch.bool)
    semantic = torch.zeros(1, 64, 64, dtype=torch.int64)
    return Targets(boxes, torch.tensor([[0, 2]]), valid, crowd, masks, torch.zeros(1, dtype=torch.int64), semantic)


IMAGES = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def sampled_losses(model, seed):
    model.generator = torch.Generator().manual_seed(seed)
    return model.loss(model(IMAGES, make_targets()), make_targets())


def test_samples_repeat_under_the_model_s_generator():
    model = tiny("faster_rcnn", settings={**FEW, "rpn_batch": 4})
    first, again, other = (sampled_losses(model, seed) for seed in (0, 0, 1))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_regions_come_positives_first_with_the_objects_among_them():
    stage = tiny("faster_rcnn")(IMAGES, make_targets()).stages[0]
    positive = stage.index[0] >= 0
    assert 2 <= positive.sum() <= 4  # a quarter of 16 at most
    assert (positive.long().diff() <= 0).all()
    rows = stage.index[0][positive]
    assert set(rows.tolist()) == {0, 1}
    assert stage.valid.all()


def test_crowds_are_neither_positive_nor_negative():
    model = tiny("faster_rcnn")
    # what lies in the crowd must not be background: proposals all inside of it, and one outside
    proposals = torch.tensor([[[22.0, 12, 40, 38], [25, 15, 58, 38], [0, 50, 10, 64]]])
    stage = model(IMAGES, make_targets((False, True)), proposals=proposals).stages[0]
    kept = stage.boxes[0][stage.index[0] == -1].tolist()
    assert kept == [[0, 50, 10, 64]]
    assert (stage.index != 1).all()
    assert (stage.index[~stage.valid] == -2).all()
    without = model(IMAGES, make_targets((True, True)), proposals=proposals).stages[0]
    assert (without.index < 0).all()


def test_fast_rcnn_takes_proposals_and_gives_results_for_them_alone():
    model = tiny("fast_rcnn")
    proposals = torch.tensor([[[4.0, 6, 44, 50], [20, 10, 60, 40], [0, 0, 9, 9]]])
    valid = torch.tensor([[True, True, False]])
    outputs = model(IMAGES, proposals=proposals, valid=valid)
    assert outputs.rpn is None
    assert torch.equal(outputs.stages[0].boxes, proposals)
    found = model.decode(outputs, torch.tensor([[64, 64]]), score_threshold=0.0, iou_threshold=1.0)[0]
    assert len(found) == 2 * 3  # two valid regions in three classes
    losses = model.loss(model(IMAGES, make_targets(), proposals=proposals), make_targets())
    assert set(losses) == {"class", "box"}


def test_fast_rcnn_without_proposals_slides_windows_over_the_whole_image():
    stage = tiny("fast_rcnn", settings={**FEW, "proposals": 1000})(IMAGES).stages[0]
    boxes = stage.boxes[0]
    assert stage.valid.all()
    # a 64 px image: places every 16, 32, 64, 128 and 256 px, three ratios each
    assert len(boxes) == 3 * (16 + 4 + 1 + 1 + 1)
    assert boxes.min() == 0
    assert boxes.max() == 64
    assert len(tiny("fast_rcnn")(IMAGES).stages[0].boxes[0]) == FEW["proposals"]


def test_cascade_refines_and_asks_for_more_overlap_each_time():
    model = tiny("cascade_rcnn")
    for stage in model.stages:
        torch.nn.init.normal_(stage.predictor.bbox_pred.bias, std=1.0)
    outputs = model(IMAGES, make_targets())
    assert [tuple(stage.deltas.shape[2:]) for stage in outputs.stages] == [(1, 4)] * 3
    first, second, _ = outputs.stages
    assert not torch.equal(first.boxes, second.boxes)
    assert (second.boxes >= 0).all()
    assert (second.boxes <= 64).all()
    losses = model.loss(outputs, make_targets())
    assert set(losses) == {"rpn_objectness", "rpn_box", "class", "box", "class2", "box2", "class3", "box3"}
    # scores are the mean over stages: with the other stages certain of background, none can pass a third
    plain = model(IMAGES)
    certain = torch.tensor([0.0, 0, 0, 50]).expand_as(plain.stages[0].logits)
    sure = torch.tensor([50.0, 0, 0, 0]).expand_as(certain)
    stages = [dataclasses.replace(s, logits=logits) for s, logits in zip(plain.stages, (certain, certain, sure))]
    found = model.decode(dataclasses.replace(plain, stages=stages), torch.tensor([[64, 64]]))[0]
    torch.testing.assert_close(found.scores, torch.full_like(found.scores, 1 / 3))
    assert len(found) > 0


def test_masks_are_of_the_positives_and_need_targets_with_masks():
    model = tiny("mask_rcnn")
    outputs = model(IMAGES, make_targets())
    assert outputs.mask_logits.shape == (1, 4, 3, 28, 28)
    with pytest.raises(ValueError, match="no masks"):
        model.loss(outputs, dataclasses.replace(make_targets(), masks=None))
    with pytest.raises(ValueError, match="without targets"):
        model.loss(model(IMAGES), make_targets())


def test_panoptic_pixels():
    classes = ClassMap(("cat", "dog", "sky"), things=(True, True, False))
    torch.manual_seed(0)
    model = build_model("panoptic_fpn", classes, **TINY).eval()
    outputs = model(IMAGES)
    assert outputs.semantic.shape == (1, 3, 16, 16)
    pixels = model.decode_panoptic(outputs, torch.tensor([[60, 50]]), score_threshold=0.3, smallest_stuff=1)[0]
    assert pixels.labels.shape == pixels.instances.shape == (60, 50)
    assert set(pixels.labels.unique().tolist()) <= {0, 1, 2, 255}
    assert (pixels.labels[pixels.instances > 0] < 2).all()
    assert "semantic" in model.loss(model(IMAGES, make_targets()), make_targets())


def test_c4_reads_one_map_and_takes_only_resnets():
    model = build_faster_rcnn_c4(ClassMap.of(2), backbone="resnet18", settings=FEW)
    assert model.roi_strides == (16,)
    assert model.anchors.counts == (15,)
    with pytest.raises(ValueError, match="ResNet"):
        build_faster_rcnn_c4(ClassMap.of(2), backbone="mobilenet_v2")


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"roi_bach": 3}, "roi_batch"), ({"proposals": 0}, "1 or more"), ({"stage_ious": [0.5, 0.6]}, "each stage")],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        read_settings(settings)


def test_settings_from_lists_as_json_gives_them():
    settings = read_settings({"stage_ious": [0.6], "box_weights": [[1, 1, 1, 1]], "score_threshold": 0.2})
    assert settings.box_weights == ((1, 1, 1, 1),)
    assert settings.stage_ious == (0.6,)


def objects(boxes, size=(64, 96)):
    boxes = torch.as_tensor(boxes, dtype=torch.float32).reshape(1, -1, 4)
    labels = torch.arange(boxes.shape[1])[None] % 3
    valid = torch.ones_like(labels, dtype=torch.bool)
    masks = torch.ones(boxes.shape[1], *size, dtype=torch.bool)
    return Targets(boxes, labels, valid, ~valid, masks, torch.zeros(1, dtype=torch.int64))


@pytest.mark.parametrize(
    "boxes",
    [
        [[0, 0, 96, 64]],  # as large as the image
        [[50, 30, 51, 31]],  # one pixel
        [[i % 90, i % 60, i % 90 + 5, i % 60 + 4] for i in range(500)],
        [[10, 10, 10, 30]],  # no area: matches nothing
    ],
    ids=["image", "pixel", "hundreds", "flat"],
)
@pytest.mark.parametrize("name", ["mask_rcnn", "cascade_rcnn"])
def test_objects_at_the_edge_of_what_occurs(name, boxes):
    model, targets = tiny(name), objects(boxes)
    grey = torch.rand(1, 1, 64, 96).expand(1, 3, 64, 96)
    outputs = model(grey, targets)
    losses = model.loss(outputs, targets)
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    flat = boxes[0][0] == boxes[0][2]
    assert bool((outputs.stages[0].index >= 0).any()) != flat
