"""The moving average against the recurrence written out."""

import copy
import math

import pytest
import torch
from torch import nn

from vision.engine.ema import MovingAverage


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def disturb(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.add_(torch.randn(tensor.shape, generator=generator))
            else:
                tensor.add_(1)


@pytest.mark.parametrize("warmup", [0, 5.0])
def test_recurrence(warmup):
    model = small()
    average = MovingAverage(model, decay=0.9, warmup=warmup)
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    for step in range(1, 8):
        disturb(model, step)
        average.update(model)
        decay = 0.9 * (1 - math.exp(-step / warmup)) if warmup else 0.9
        assert average.current_decay == pytest.approx(decay)
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * value
            else:
                expected[name] = value
    torch.testing.assert_close(dict(average.module.state_dict()), expected)
    assert not average.module.training
    assert not any(parameter.requires_grad for parameter in average.module.parameters())


def test_average_is_nearer_to_the_minimum_than_noisy_steps():
    # SGD on 0.5 w^2 with noisy gradients: the average of the weights has a smaller error than the weights
    model = nn.Linear(50, 1, bias=False)
    average = MovingAverage(model, decay=0.98, warmup=20)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _ in range(400):
            noise = torch.randn(1, 50, generator=generator)
            model.weight.sub_(0.2 * (model.weight + noise))
            average.update(model)
    assert average.module.weight.norm() < 0.5 * model.weight.norm()


def test_resume_is_exact():
    model = small()
    first = MovingAverage(model, decay=0.9, warmup=3)
    disturb(model, 1)
    first.update(model)
    second = MovingAverage(small(), decay=0.9, warmup=3)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    disturb(model, 2)
    for average in (first, second):
        average.update(model)
    for name, value in first.module.state_dict().items():
        assert torch.equal(value, second.module.state_dict()[name])


def test_refusals():
    with pytest.raises(ValueError, match=r"decay 1.0"):
        MovingAverage(small(), decay=1.0)
    with pytest.raises(ValueError, match=r"warmup -1"):
        MovingAverage(small(), warmup=-1)
    with pytest.raises(ValueError, match="another one"):
        MovingAverage(small()).update(nn.Conv2d(3, 4, 3))
