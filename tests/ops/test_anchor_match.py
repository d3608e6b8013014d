import torch

from vision.ops.anchor_match import adaptive_assignment, default_box_assignment
from vision.ops.assign import BACKGROUND, IGNORE, centre_assignment
from vision.ops.boxes import pairwise_iou
from vision.ops.points import grid_points
from vision.structures import Targets


def targets_of(boxes, crowd=()):
    """One image's `Targets` with a row of padding, all of class 0."""
    padded = torch.zeros(1, len(boxes) + 1, 4)
    padded[0, :-1] = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    labels = torch.full((1, len(boxes) + 1), -1)
    labels[0, :-1] = 0
    crowds = torch.zeros_like(labels, dtype=torch.bool)
    crowds[0, list(crowd)] = True
    return Targets(padded, labels, labels >= 0, crowds)


class TestDefaultBoxes:
    anchors = torch.tensor([[0.0, 0, 10, 10], [10, 0, 20, 10], [0, 10, 10, 20], [0, 0, 20, 20]])

    def test_overlap_and_best_anchor(self):
        # object 0 is anchor 0's by IoU 1 and overlaps the others less than half; object 1 (5x5 in anchor 1) has an
        # IoU of 25 / 100 with its best anchor, which it takes all the same
        index, weight = default_box_assignment(self.anchors, targets_of([[0, 0, 10, 10], [12, 2, 17, 7]]))
        assert index.tolist() == [[0, 1, BACKGROUND, BACKGROUND]]
        assert weight.tolist() == [[1, 1, 0, 0]]

    def test_two_objects_with_one_best_anchor(self):
        index, _ = default_box_assignment(self.anchors, targets_of([[0, 0, 9, 9], [1, 1, 10, 10]]))
        assert index[0, 0] == 1

    def test_nothing_and_crowds(self):
        assert (default_box_assignment(self.anchors, targets_of([])).index == BACKGROUND).all()
        index, _ = default_box_assignment(self.anchors, targets_of([[0, 0, 10, 10]], crowd=[0]))
        assert index[0].tolist() == [IGNORE, BACKGROUND, BACKGROUND, BACKGROUND]


class TestAdaptive:
    points, strides = grid_points([(8, 8), (4, 4)], [8, 16])
    anchors = torch.cat([points - 2 * strides[:, None], points + 2 * strides[:, None]], -1)

    def assign(self, targets):
        return adaptive_assignment(self.anchors, self.strides, targets, levels=2, nearest=4)

    def test_equals_the_algorithm_line_by_line(self):
        boxes = [[4, 6, 37, 40], [28, 20, 61, 54], [3, 40, 30, 62], [33, 3, 50, 18]]
        index, weight = self.assign(targets_of(boxes))
        truth = torch.tensor(boxes, dtype=torch.float32)
        iou = pairwise_iou(truth, self.anchors)
        best = torch.full((80,), -1.0)
        expected = torch.full((80,), BACKGROUND)
        for g, box in enumerate(truth):
            middle = (box[:2] + box[2:]) / 2
            distance = (self.points - middle).norm(dim=1)
            levels = (distance[:64].topk(4, largest=False), distance[64:].topk(4, largest=False))
            candidates = [*levels[0].indices, *(64 + levels[1].indices)]
            threshold = iou[g, candidates].mean() + iou[g, candidates].std()
            for p in candidates:
                x, y = self.points[p]
                inside = box[0] < x < box[2] and box[1] < y < box[3]
                if inside and iou[g, p] >= threshold and iou[g, p] > best[p]:
                    best[p], expected[p] = iou[g, p], g
        assert index[0].tolist() == expected.tolist()
        assert {BACKGROUND, 0, 1} <= set(index[0].tolist())
        assert torch.equal(weight > 0, index >= 0)

    def test_nothing_and_crowds(self):
        assert (self.assign(targets_of([])).index == BACKGROUND).all()
        index, _ = self.assign(targets_of([[0, 0, 32, 32]], crowd=[0]))
        assert set(index[0].tolist()) == {IGNORE, BACKGROUND}
        assert (index[0] == IGNORE).sum() == 16 + 4  # the points inside


class TestCentre:
    points, strides = grid_points([(16, 16), (8, 8)], [8, 16])

    def test_smallest_object_near_its_centre_on_the_right_level(self):
        # object 0 (120 x 120): its farthest sides are over 8 fine strides, so it is the coarse level's; object 1 (12 x
        # 12), inside it, is the fine level's
        index, _ = centre_assignment(self.points, self.strides, targets_of([[4, 4, 124, 124], [22, 22, 34, 34]]))
        fine, coarse = index[0, :256].view(16, 16), index[0, 256:].view(8, 8)
        assert (fine == 1).nonzero().tolist() == [[3, 3]]  # the only point (28, 28) inside object 1
        assert (fine == 0).sum() == 0
        # the points 56 and 72 are less than 1.5 * 16 from the centre 64; 40 and 88 are not
        assert (coarse == 0).nonzero().tolist() == [[3, 3], [3, 4], [4, 3], [4, 4]]
        assert (coarse == 1).sum() == 0

    def test_objects_of_one_pixel_and_crowds(self):
        index, _ = centre_assignment(self.points, self.strides, targets_of([[10, 10, 11, 11]]))
        assert (index == BACKGROUND).all()  # no point lies in it
        index, _ = centre_assignment(self.points, self.strides, targets_of([[0, 0, 16, 16]], crowd=[0]))
        assert index[0, [0, 1, 16, 17]].tolist() == [IGNORE] * 4
