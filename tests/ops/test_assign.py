import pytest
import torch

from vision.ops.assign import BACKGROUND, IGNORE, gather_objects, task_aligned_assignment
from vision.ops.boxes import pairwise_iou
from vision.ops.points import grid_points
from vision.structures import Targets


def targets_of(boxes, labels, crowd=None, pad=1):
    """One image's `Targets` with `pad` rows of padding."""
    count = len(boxes)
    padded = torch.zeros(1, count + pad, 4)
    if count:
        padded[0, :count] = torch.tensor(boxes, dtype=torch.float32)
    row = torch.full((1, count + pad), -1)
    row[0, :count] = torch.tensor(labels, dtype=torch.long)
    crowds = torch.zeros(1, count + pad, dtype=torch.bool)
    if crowd is not None:
        crowds[0, :count] = torch.tensor(crowd)
    return Targets(padded, row, row >= 0, crowds)


def test_gather_reads_row_zero_for_negatives():
    values = torch.tensor([[10, 20], [30, 40]])
    assert gather_objects(values, torch.tensor([[1, -1], [0, -2]])).tolist() == [[20, 10], [30, 30]]
    assert gather_objects(values[..., None], torch.tensor([[1], [1]])).tolist() == [[[20]], [[40]]]


class TestTaskAligned:
    points, _ = grid_points([(4, 4)], [8])  # a 32 x 32 image

    def assign(self, targets, scores=None, boxes=None, **options):
        classes = 3
        scores = torch.full((1, 16, classes), 0.5) if scores is None else scores
        boxes = torch.cat([self.points - 6, self.points + 6], -1)[None] if boxes is None else boxes
        return task_aligned_assignment(scores, boxes, self.points, targets, **options)

    def test_hand_derived_weights(self):
        # object 0..16 squared holds the points 4, 12; the predicted boxes there are 12x12 with 10x10, 12x10... inside:
        # (-2..10)^2 overlaps in 100 of 300: IoU = 100 / (144 + 256 - 100) = 1/3; (-2..10, 6..18): 10*10 as well
        targets = targets_of([[0, 0, 16, 16]], [1])
        index, weight = self.assign(targets, topk=2, beta=1.0)
        iou = 100 / 300
        assert set(index[0].tolist()) == {0, BACKGROUND}
        assert (index[0] == 0).sum() == 2
        # all alignments are equal, so every chosen point has the largest IoU as its weight
        assert weight[0][index[0] == 0].tolist() == pytest.approx([iou] * 2, abs=1e-5)
        assert (weight[0][index[0] < 0] == 0).all()

    def test_best_aligned_point_wins_and_scales_the_rest(self):
        targets = targets_of([[0, 0, 16, 16]], [1])
        scores = torch.zeros(1, 16, 3)
        scores[0, [0, 1, 4, 5], 1] = torch.tensor([0.2, 0.8, 0.4, 0.1])
        index, weight = self.assign(targets, scores, topk=3)
        # IoUs are equal (1/3): alignments are as 0.2 : 0.8 : 0.4 -> weights 1/12, 1/3, 1/6, and place 5 is left out
        assert index[0, [0, 1, 4, 5]].tolist() == [0, 0, 0, BACKGROUND]
        assert weight[0, [0, 1, 4]].tolist() == pytest.approx([1 / 12, 1 / 3, 1 / 6], abs=1e-5)

    def test_point_in_two_objects_goes_to_the_greater_overlap(self):
        targets = targets_of([[0, 0, 32, 32], [0, 0, 13, 13]], [0, 1])
        index, _ = self.assign(targets)
        assert index[0, 0] == 1  # its box (-2..10)^2 overlaps the small one more
        assert (index[0] == 0).any()

    def test_only_points_inside_and_only_with_their_own_class_score(self):
        targets = targets_of([[8, 8, 24, 24]], [2])
        scores = torch.zeros(1, 16, 3)
        scores[..., 0] = 0.9  # of another class: alignment 0, yet the points inside stay positive with weight 0
        index, weight = self.assign(targets, scores)
        assert (index[0] == 0).nonzero().flatten().tolist() == [5, 6, 9, 10]
        assert weight.sum() == 0

    def test_no_objects_and_one_pixel_objects(self):
        index, weight = self.assign(targets_of([], []))
        assert (index == BACKGROUND).all()
        assert weight.sum() == 0
        index, weight = self.assign(targets_of([[3, 3, 5, 5], [9, 9, 10, 10]], [0, 1]))
        assert index[0].tolist() == [0] + [BACKGROUND] * 15  # the second holds no point
        assert weight.isfinite().all()

    def test_crowds_are_neither(self):
        targets = targets_of([[0, 0, 16, 16], [0, 0, 32, 16]], [0, 0], crowd=[False, True])
        index, weight = self.assign(targets, topk=4)
        assert index[0, [0, 1, 4, 5]].tolist() == [0] * 4
        assert index[0, [2, 3, 6, 7]].tolist() == [IGNORE] * 4
        assert (index[0, 8:] == BACKGROUND).all()
        assert (weight[0, [2, 3, 6, 7]] == 0).all()

    def test_object_as_large_as_the_image_and_more_wanted_than_points(self):
        index, _ = self.assign(targets_of([[0, 0, 32, 32]], [0]), topk=100)
        assert (index == 0).all()

    def test_equals_a_loop_over_objects(self):
        generator = torch.Generator().manual_seed(0)
        points, _ = grid_points([(8, 8), (4, 4)], [8, 16])
        corner = torch.rand(1, 12, 2, generator=generator) * 40
        truth = torch.cat([corner, corner + 4 + torch.rand(1, 12, 2, generator=generator) * 30], -1)
        labels = torch.randint(0, 3, (1, 12), generator=generator)
        targets = Targets(truth, labels, labels >= 0, torch.zeros_like(labels, dtype=torch.bool))
        half = 4 + torch.rand(1, 80, 2, generator=generator) * 12
        boxes = torch.cat([points - half, points + half], -1)
        scores = torch.rand(1, 80, 3, generator=generator)
        index, weight = task_aligned_assignment(scores, boxes, points, targets, topk=5)
        expected_index, expected_weight = slow_task_aligned(scores[0], boxes[0], points, truth[0], labels[0], 5)
        assert index[0].tolist() == expected_index
        assert weight[0].tolist() == pytest.approx(expected_weight, abs=1e-5)


def slow_task_aligned(scores, boxes, points, truth, labels, topk):
    """Section 3.2 of TOOD word by word, one object after another."""
    iou = pairwise_iou(truth, boxes)
    owner = {}
    alignment = torch.zeros_like(iou)
    for g, (box, label) in enumerate(zip(truth, labels)):
        alignment[g] = scores[:, label] * iou[g] ** 6
        inside = [p for p, (x, y) in enumerate(points.tolist()) if box[0] < x < box[2] and box[1] < y < box[3]]
        for p in sorted(inside, key=lambda p: -alignment[g, p])[:topk]:
            if p not in owner or iou[g, p] > iou[owner[p], p]:
                owner[p] = g
    weight = [0.0] * len(points)
    for g in range(len(truth)):
        mine = [p for p, o in owner.items() if o == g]
        for p in mine:
            scale = max(iou[g, q] for q in mine) / (max(alignment[g, q] for q in mine) + 1e-9)
            weight[p] = float(alignment[g, p] * scale)
    return [owner.get(p, -1) for p in range(len(points))], weight
