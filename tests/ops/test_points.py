import pytest
import torch

from vision.ops.points import decode_distances, decode_distributions, encode_distances, grid_points


def test_grid_is_cell_centres_row_by_row():
    points, strides = grid_points([(2, 3), (1, 1)], [8, 16])
    assert points.tolist() == [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12], [8, 8]]
    assert strides.tolist() == [8] * 6 + [16]


def test_distances_round_trip():
    points = torch.tensor([[10.0, 20], [5, 5]])
    distances = torch.tensor([[1.0, 2, 3, 4], [0, 0, 0, 0]])
    boxes = decode_distances(points, distances)
    assert boxes.tolist() == [[9, 18, 13, 24], [5, 5, 5, 5]]
    torch.testing.assert_close(encode_distances(points, boxes), distances)


def test_distribution_is_its_expectation_times_stride():
    # all mass on bins 1, 0, 3, 2, and once spread evenly over 0..3 (expectation 1.5)
    logits = torch.full((2, 4, 4), -100.0)
    for side, bin_ in enumerate((1, 0, 3, 2)):
        logits[0, side, bin_] = 100.0
    logits[1] = 0.0
    boxes = decode_distributions(torch.tensor([[50.0, 60], [50, 60]]), torch.tensor([8.0, 2]), logits.flatten(1))
    torch.testing.assert_close(boxes, torch.tensor([[42.0, 60, 74, 76], [47, 57, 53, 63]]))


def test_disagreeing_inputs_are_named():
    with pytest.raises(ValueError, match="3 points but 2 distances"):
        decode_distances(torch.zeros(3, 2), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="1 map shapes but 2 strides"):
        grid_points([(1, 1)], [8, 16])
