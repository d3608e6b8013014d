"""Pooling and proposals against torchvision's MultiScaleRoIAlign and RPN filter."""

from collections import OrderedDict

import torch
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import MultiScaleRoIAlign

from vision.ops.roi import clip_to_image, pool_regions, pyramid_level, select_proposals
from vision.ops.static_nms import _cluster_keep_mask, keep_mask

STRIDES = (4, 8, 16, 32)
SIZE = (96, 128)


def random_boxes(generator, count):
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([120.0, 90])
    boxes = torch.cat([corner, corner + torch.rand(count, 2, generator=generator) ** 3 * 1000], 1)
    return boxes  # some reach far over the border, some are thinner than a cell


def pyramid(generator):
    return [torch.randn(2, 5, SIZE[0] // s, SIZE[1] // s, generator=generator, requires_grad=True) for s in STRIDES]


def test_equals_torchvision_with_gradient():
    generator = torch.Generator().manual_seed(0)
    features, boxes = pyramid(generator), random_boxes(generator, 30)
    images = torch.arange(30) // 15
    oracle = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
    named = OrderedDict((str(i), feature) for i, feature in enumerate(features))
    expected = oracle(named, [boxes[:15], boxes[15:]], [SIZE, SIZE])
    ours = pool_regions(features, boxes, images, STRIDES, 7)
    assert pyramid_level(boxes, STRIDES).unique().numel() == 4
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    upstream = torch.randn(expected.shape, generator=generator)
    wanted = torch.autograd.grad(expected, features, upstream)
    for mine, theirs in zip(torch.autograd.grad(ours, features, upstream), wanted):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


def test_half_precision_maps_and_no_boxes():
    generator = torch.Generator().manual_seed(1)
    features = [f.detach().bfloat16() for f in pyramid(generator)]
    boxes, images = random_boxes(generator, 6), torch.arange(6) // 3
    exact = pool_regions(features, boxes, images, STRIDES, 7)
    assert exact.dtype == torch.float32
    with torch.no_grad():
        quick = pool_regions(features, boxes, images, STRIDES, 7)
    assert quick.dtype == torch.bfloat16
    torch.testing.assert_close(quick.float(), exact, atol=0.02, rtol=0.02)
    assert pool_regions(features, torch.rand(0, 4), torch.zeros(0, dtype=torch.long), STRIDES, 7).shape == (0, 5, 7, 7)


def make_proposals(generator, counts):
    logits = torch.randn(2, sum(counts), generator=generator)
    boxes = torch.stack([random_boxes(generator, sum(counts)) for _ in range(2)])
    boxes[:, 3, 2:] = boxes[:, 3, :2]  # one without area
    return logits, boxes


def test_proposals_equal_torchvision():
    generator = torch.Generator().manual_seed(2)
    counts = [60, 20, 5]
    logits, boxes = make_proposals(generator, counts)
    limits = {"training": 25, "testing": 25}
    keep = {"training": 60, "testing": 60}
    oracle = RegionProposalNetwork(None, None, 0.7, 0.3, 256, 0.5, limits, keep, 0.4, 0.3).eval()
    expected, scores = oracle.filter_proposals(boxes, logits, [SIZE, SIZE], counts)
    ours = select_proposals(logits, boxes, counts, SIZE, per_level=25, count=60, iou_threshold=0.4, score_threshold=0.3)
    assert ours.boxes.shape == (2, 60, 4)
    for i in range(2):
        count = len(expected[i])
        assert 5 < count < 50
        assert ours.valid[i].sum() == count
        torch.testing.assert_close(ours.boxes[i, :count], expected[i])
        torch.testing.assert_close(ours.scores[i, :count], scores[i])


def test_cluster_nms_equals_greedy_nms():
    generator = torch.Generator().manual_seed(3)
    boxes = torch.stack([clip_to_image(random_boxes(generator, 80), SIZE) for _ in range(3)])
    valid = torch.rand(3, 80, generator=generator) > 0.2
    greedy = keep_mask(boxes, valid, 0.5)
    assert torch.equal(_cluster_keep_mask(boxes, valid, 0.5), greedy)
    assert 0 < greedy.sum() < valid.sum()
    assert not keep_mask(boxes, torch.zeros_like(valid), 0.5).any()


def test_proposals_compile_without_a_break():
    generator = torch.Generator().manual_seed(4)
    logits, boxes = make_proposals(generator, [20, 5])

    def choose(logits, boxes):
        return select_proposals(logits, boxes, [20, 5], SIZE, per_level=10, count=12)

    compiled = torch.compile(choose, fullgraph=True, backend="eager")(logits, boxes)
    for mine, expected in zip(compiled, choose(logits, boxes)):
        torch.testing.assert_close(mine, expected)
