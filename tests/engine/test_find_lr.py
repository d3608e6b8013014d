"""The learning-rate range test on a problem whose answer is known, and batch sizes."""

import json
import xml.etree.ElementTree

import pytest
import torch
from torch import nn

from vision.engine.batch_size import BatchGrowth, BatchGrowthConfig, cpu_fits, largest_batch
from vision.engine.find_lr import range_test


def quadratic(curvature, seed=0):
    """A step of gradient descent on 0.5 curvature w^2, and its optimiser: stable below lr = 2 / curvature."""
    weight = nn.Parameter(torch.randn(20, generator=torch.Generator().manual_seed(seed)))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    optimizer.param_groups[0]["initial_lr"] = 1.0

    def step():
        optimizer.zero_grad()
        loss = 0.5 * curvature * weight.square().sum()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step, optimizer


@pytest.mark.parametrize("curvature", [1.0, 100.0])
def test_suggestion_scales_with_the_curvature(curvature):
    step, optimizer = quadratic(curvature)
    test = range_test(step, optimizer, steps=100, lowest=1e-6, highest=100.0)
    assert 0.01 / curvature < test.suggestion < 2 / curvature  # fast, and stable
    assert test.rates[-1] < 100  # ended when it diverged
    assert test.rates == sorted(test.rates)


def test_groups_keep_their_ratio():
    first, second = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([{"params": [first]}, {"params": [second]}], lr=1.0)
    optimizer.param_groups[0]["initial_lr"], optimizer.param_groups[1]["initial_lr"] = 0.1, 1.0
    range_test(lambda: 1.0, optimizer, steps=10, lowest=1e-3, highest=1.0)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1, 1.0])


def test_files(tmp_path):
    test = range_test(*quadratic(1.0), highest=10.0)
    test.save(tmp_path)
    assert json.loads((tmp_path / "find_lr.json").read_text())["suggestion"] == test.suggestion
    picture = xml.etree.ElementTree.parse(tmp_path / "find_lr.svg")
    (curve,) = picture.iter("{http://www.w3.org/2000/svg}polyline")
    assert len(curve.get("points").split()) == len(test.rates)


def test_refusals():
    _, optimizer = quadratic(1.0)
    with pytest.raises(ValueError, match="not finite"):
        range_test(lambda: float("nan"), optimizer)
    with pytest.raises(ValueError, match="10 or more"):
        range_test(lambda: 1.0, optimizer, steps=3)


def test_batch_growth():
    # 10 epochs of 9 batches: 1, then 2 from epoch 3, then 4 from epoch 6
    growth = BatchGrowth(BatchGrowthConfig(at=[0.3, 0.6]), first=1, epochs=10)
    assert [growth.accumulate(epoch) for epoch in range(10)] == [1] * 3 + [2] * 3 + [4] * 4
    assert growth.steps(9) == 3 * 9 + 3 * 5 + 4 * 3
    assert {growth.lr_factor(epoch) for epoch in range(10)} == {1.0}
    linear = BatchGrowth(BatchGrowthConfig(at=[0.5], rule="linear", factor=4), first=2, epochs=4)
    assert [(linear.accumulate(epoch), linear.lr_factor(epoch)) for epoch in (1, 2)] == [(2, 1.0), (8, 4.0)]
    root = BatchGrowth(BatchGrowthConfig(at=[0.5], rule="sqrt", factor=4), first=1, epochs=4)
    assert root.lr_factor(3) == 2.0
    with pytest.raises(ValueError, match=r"batch_growth.at"):
        BatchGrowthConfig(at=[1.5])


@pytest.mark.parametrize(("capacity", "expected"), [(1, 1), (7, 7), (37, 37), (64, 64), (5000, 500)])
def test_largest_batch(capacity, expected):
    tried = []

    def attempt(size):
        tried.append(size)
        if size > capacity:
            raise torch.OutOfMemoryError("CUDA out of memory")

    found = largest_batch(attempt, limit=500)
    assert expected * 7 / 8 <= found <= expected
    assert found == 500 or capacity < 500  # the limit itself
    assert max(tried) <= 500
    assert len(tried) <= 14


def test_largest_batch_that_may_not_be_tried():
    assert largest_batch(lambda size: None, fits=lambda size: size <= 12) in (11, 12)
    assert cpu_fits(1.0)(1000)
    assert not cpu_fits(1e15)(1)
    with pytest.raises(ValueError, match="one image does not fit"):
        largest_batch(lambda size: None, fits=lambda size: False)
