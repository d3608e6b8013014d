import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vision.ops.boxes import paired_iou
from vision.ops.heatmap import draw_centres, find_peaks, gaussian_radius


@settings(max_examples=50, deadline=None)
@given(st.floats(1, 300), st.floats(1, 300), st.floats(0.1, 0.9))
def test_radius_keeps_the_overlap_in_all_three_cases(width, height, overlap):
    radius = gaussian_radius(torch.tensor(width), torch.tensor(height), overlap).item()
    box = torch.tensor([0.0, 0, width, height])
    moves = [(radius,) * 4, (-radius, -radius, radius, radius), (radius, radius, -radius, -radius)]
    overlaps = [paired_iou(box, box + torch.tensor(move)).item() for move in moves]
    assert min(overlaps) == pytest.approx(overlap, abs=2e-3)


def test_drawn_gaussian_by_hand():
    # a 9x9 object centred at (5.5, 4.5): cell (5, 4). Shifted: r^2 - 18 r + 81 * 0.3 / 1.7 = 0 -> r = 0.83;
    # inside: (18 - sqrt(324 - 97.2)) / 4 = 0.74; outside: (sqrt(324 + 138.9) - 18) / 4 = 0.88. floor(0.74) = 0:
    # deviation 1/6, so the neighbour at distance 1 gets exp(-1 / (2 / 36)) = exp(-18)
    boxes = torch.tensor([[[1.0, 0, 10, 9]]])
    maps = draw_centres(boxes, torch.tensor([[1]]), torch.tensor([[True]]), 2, (10, 12))
    assert maps.shape == (1, 2, 10, 12)
    assert maps[0, 1, 4, 5] == 1
    assert maps[0, 1, 4, 6].item() == pytest.approx(torch.tensor(-18.0).exp().item(), rel=1e-3)
    assert maps[0, 0].sum() == 0
    # a 30x30 object: floor((60 - sqrt(3600 - 1080)) / 4) = 2, deviation 5/6: at distance 1 exp(-1 / (2 * 25/36))
    maps = draw_centres(torch.tensor([[[0.0, 0, 30, 30]]]), torch.tensor([[0]]), torch.tensor([[True]]), 1, (30, 30))
    assert maps[0, 0, 15, 16].item() == pytest.approx(torch.tensor(-0.72).exp().item(), rel=1e-4)


def test_padding_draws_nothing_and_overlaps_keep_the_greater():
    boxes = torch.tensor([[[0.0, 0, 30, 30], [4, 0, 34, 30], [0, 0, 0, 0]]])
    labels = torch.tensor([[0, 0, -1]])
    valid = labels >= 0
    both = draw_centres(boxes, labels, valid, 1, (32, 40))
    first = draw_centres(boxes[:, :1], labels[:, :1], valid[:, :1], 1, (32, 40))
    second = draw_centres(boxes[:, 1:2], labels[:, 1:2], valid[:, 1:2], 1, (32, 40))
    torch.testing.assert_close(both, torch.maximum(first, second))
    assert draw_centres(boxes, labels, valid & False, 1, (32, 40)).sum() == 0


def test_peaks_are_found_again():
    maps = torch.zeros(2, 3, 8, 9)
    maps[0, 2, 3, 4], maps[0, 2, 3, 5], maps[0, 0, 7, 8] = 0.9, 0.8, 0.4  # 0.8 is a neighbour of the 0.9
    peaks = find_peaks(maps, 4)
    assert peaks.scores[0].tolist() == pytest.approx([0.9, 0.4, 0, 0])
    assert peaks.cells[0, :2].tolist() == [3 * 9 + 4, 7 * 9 + 8]
    assert peaks.labels[0, :2].tolist() == [2, 0]
    assert (peaks.scores[1] == 0).all()
    assert find_peaks(maps, 1000).scores.shape == (2, 3 * 72)
