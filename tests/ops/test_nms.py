import pytest
import torch
from torchvision.ops import batched_nms

from vision.ops.nms import gather_places, select_candidates, suppress


def select_detections(boxes, scores, **options):
    best = select_candidates(scores, 1000)
    return suppress(gather_places(boxes, best.places), best.scores, best.labels, **options)


def test_candidates_are_the_top_pairs_of_all():
    scores = torch.rand(3, 50, 7, generator=torch.Generator().manual_seed(0))
    best = select_candidates(scores, 40)
    expected = scores.flatten(1).topk(40, dim=1).values
    torch.testing.assert_close(best.scores, expected)
    rows = torch.arange(3)[:, None]
    torch.testing.assert_close(scores[rows, best.places, best.labels], expected)


@pytest.mark.parametrize(("places", "classes"), [(5, 1), (5, 3), (1, 1), (1, 1000)])
def test_fewer_pairs_than_asked_for(places, classes):
    best = select_candidates(torch.rand(2, places, classes), 100)
    assert best.scores.shape == (2, min(100, places * classes))
    assert (best.scores.diff(dim=1) <= 0).all()


def test_suppresses_within_a_class_only_and_sorts():
    boxes = torch.tensor([[[0.0, 0, 10, 10], [1, 0, 11, 10], [0, 0, 10, 10], [30, 30, 40, 40], [5, 5, 5, 9]]])
    # box 1 overlaps box 0 by 90 / 110 in class 0; box 2 is of class 1; box 4 has no area; box 3 is under the threshold
    scores = torch.tensor([[[0.6, 0], [0.9, 0], [0, 0.7], [0.05, 0], [0.99, 0]]])
    options = {"score_threshold": 0.1, "iou_threshold": 0.5, "max_detections": 10}
    (found,) = select_detections(boxes, scores, **options)
    assert found.scores.tolist() == pytest.approx([0.9, 0.7])
    assert found.labels.tolist() == [0, 1]
    (agnostic,) = select_detections(boxes, scores, class_agnostic=True, **options)
    assert agnostic.scores.tolist() == pytest.approx([0.9])
    (all_kept,) = select_detections(boxes, scores, **{**options, "iou_threshold": 0.9})
    assert len(all_kept) == 3
    (one,) = select_detections(boxes, scores, **{**options, "max_detections": 1})
    assert one.labels.tolist() == [0]


def test_equals_torchvision_on_each_image():
    generator = torch.Generator().manual_seed(3)
    corner = torch.rand(2, 60, 2, generator=generator) * 50
    boxes = torch.cat([corner, corner + 5 + torch.rand(2, 60, 2, generator=generator) * 30], -1)
    scores = torch.rand(2, 60, generator=generator)
    labels = torch.randint(0, 3, (2, 60), generator=generator)
    results = suppress(boxes, scores, labels, score_threshold=0.2, iou_threshold=0.4, max_detections=25)
    for i, found in enumerate(results):
        kept = scores[i] > 0.2
        chosen = batched_nms(boxes[i][kept], scores[i][kept], labels[i][kept], 0.4)[:25]
        torch.testing.assert_close(found.boxes, boxes[i][kept][chosen])
        torch.testing.assert_close(found.scores, scores[i][kept][chosen])


def test_nothing_above_the_threshold():
    results = select_detections(
        torch.zeros(2, 4, 4), torch.zeros(2, 4, 3), score_threshold=0.0, iou_threshold=0.5, max_detections=5
    )
    assert [found.boxes.shape for found in results] == [(0, 4), (0, 4)]
    assert results[0].labels.dtype == torch.int64


@pytest.mark.parametrize("spread", [2.0, 30.0, 300.0])
@pytest.mark.parametrize("most", [1, 5, 60])
def test_the_best_few_of_many_are_those_of_torchvision(spread, most):
    # centres close together: nearly all of 3000 boxes overlap the best, so that many have to be tried to find 60
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(1, 3000, 2, generator=generator) * spread
    boxes = torch.cat([corner, corner + 20 + torch.rand(1, 3000, 2, generator=generator) * 4], -1)
    scores = (torch.randperm(3000, generator=generator)[None] + 1) / 3000
    labels = torch.randint(0, 2, (1, 3000), generator=generator)
    (found,) = suppress(boxes, scores, labels, score_threshold=0.1, iou_threshold=0.5, max_detections=most)
    kept = scores[0] > 0.1
    chosen = batched_nms(boxes[0][kept], scores[0][kept], labels[0][kept], 0.5)[:most]
    torch.testing.assert_close(found.boxes, boxes[0][kept][chosen])
