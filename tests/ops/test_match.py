"""Overlap matching against torchvision's Matcher, image by image, and the rules that torchvision does not have."""

import pytest
import torch
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from vision.ops.match import overlap_assignment
from vision.structures import Targets


def random_boxes(generator, *shape, side=60):
    corner = torch.rand(*shape, 2, generator=generator) * 100
    return torch.cat([corner, corner + 5 + torch.rand(*shape, 2, generator=generator) * side], -1)


def make_targets(boxes, valid, crowd=None):
    crowd = torch.zeros_like(valid) if crowd is None else crowd
    return Targets(boxes * valid[..., None], torch.where(valid, 0, -1), valid, crowd)


@pytest.mark.parametrize(("low", "high", "best"), [(0.3, 0.7, True), (0.5, 0.5, False), (0.4, 0.5, True)])
def test_equals_torchvision(low, high, best):
    generator = torch.Generator().manual_seed(0)
    boxes, anchors = random_boxes(generator, 3, 6), random_boxes(generator, 200)
    valid = torch.arange(6) < torch.tensor([[6], [1], [0]])
    assignment = overlap_assignment(anchors, make_targets(boxes, valid), low=low, high=high, best_for_each=best)
    for b, count in enumerate(valid.sum(1).tolist()):
        if count:
            expected = Matcher(high, low, best)(box_iou(boxes[b, :count], anchors))
        else:
            expected = torch.full((200,), -1)  # torchvision's matcher raises here; its callers say background
        assert torch.equal(assignment.index[b], expected)
    assert torch.equal(assignment.weight, (assignment.index >= 0).float())
    assert (assignment.index >= 0).any()


def test_crowds_are_neither_objects_nor_background():
    boxes = torch.tensor([[[0.0, 0, 40, 40], [100, 100, 200, 200]]])
    targets = make_targets(boxes, torch.tensor([[True, True]]), torch.tensor([[False, True]]))
    # the object; in the crowd; 40 % in the crowd; elsewhere
    anchors = torch.tensor([[0.0, 0, 40, 40], [120, 120, 140, 140], [90, 150, 106.6667, 160], [300, 300, 310, 310]])
    index = overlap_assignment(anchors, targets, low=0.3, high=0.7, best_for_each=True).index
    assert index.tolist() == [[0, -2, -1, -1]]


def test_references_that_are_not_valid_are_ignored():
    targets = make_targets(torch.tensor([[[0.0, 0, 40, 40]]]), torch.tensor([[True]]))
    proposals = torch.tensor([[[0.0, 0, 40, 40], [0, 0, 39, 40], [50, 50, 60, 60]]])
    valid = torch.tensor([[False, True, False]])
    index = overlap_assignment(proposals, targets, low=0.5, high=0.5, valid=valid).index
    assert index.tolist() == [[-2, 0, -2]]


def test_an_object_that_nothing_overlaps_matches_nothing():
    targets = make_targets(torch.tensor([[[50.0, 50, 50, 50], [300, 300, 340, 340]]]), torch.tensor([[True, True]]))
    anchors = torch.tensor([[0.0, 0, 40, 40], [40, 40, 80, 80]])
    index = overlap_assignment(anchors, targets, low=0.3, high=0.7, best_for_each=True).index
    assert index.tolist() == [[-1, -1]]
