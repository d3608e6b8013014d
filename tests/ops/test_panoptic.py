"""Putting instances and stuff together, on pictures small enough to see."""

import pytest
import torch

from vision.ops.panoptic import merge_panoptic
from vision.structures import Detections

THINGS = torch.tensor([True, True, False, False])  # classes 2 and 3 are stuff


def rows(*ranges):
    """Masks (N, 4, 4) that cover the rows first..last-1."""
    masks = torch.zeros(len(ranges), 4, 4, dtype=torch.bool)
    for mask, (first, last) in zip(masks, ranges):
        mask[first:last] = True
    return masks


def detections(masks, scores, labels):
    return Detections(torch.zeros(len(masks), 4), torch.tensor(scores), torch.tensor(labels, dtype=torch.long), masks)


def test_by_falling_score_and_stuff_behind():
    # the second loses one of its two rows to the first and keeps half; the third is hidden; the fourth is too unsure
    found = detections(rows((0, 2), (1, 3), (0, 1), (3, 4)), [0.9, 0.8, 0.7, 0.4], [0, 1, 1, 0])
    semantic = torch.full((4, 4), 2)
    semantic[0] = 3  # beneath an instance: does not show
    pixels = merge_panoptic(found, semantic, THINGS, smallest_stuff=1)
    assert pixels.labels[:, 0].tolist() == [0, 0, 1, 2]
    assert pixels.instances[:, 0].tolist() == [1, 1, 2, 0]


def test_things_of_the_semantic_map_and_small_stuff_are_void():
    semantic = torch.tensor([[0, 0, 2, 2], [2, 2, 2, 2], [3, 2, 2, 2], [2, 2, 2, 2]])
    pixels = merge_panoptic(detections(rows(), [], []), semantic, THINGS, smallest_stuff=5)
    assert (pixels.labels == 255).nonzero().tolist() == [[0, 0], [0, 1], [2, 0]]
    assert not pixels.instances.any()


def test_void_is_no_class_where_there_are_more_than_255():
    semantic = torch.full((4, 4), 255)
    semantic[0] = 0  # of things, without an instance
    pixels = merge_panoptic(detections(rows(), [], []), semantic, torch.arange(300) < 2, smallest_stuff=1)
    assert (pixels.labels[0] == -1).all() and (pixels.labels[1:] == 255).all()


def test_an_instance_of_stuff_is_not_laid_down_and_masks_are_needed():
    found = detections(rows((0, 4)), [0.9], [2])
    pixels = merge_panoptic(found, torch.full((4, 4), 3), THINGS, smallest_stuff=1)
    assert (pixels.labels == 3).all()
    with pytest.raises(ValueError, match="mask head"):
        merge_panoptic(Detections(found.boxes, found.scores, found.labels), torch.zeros(4, 4).long(), THINGS)
