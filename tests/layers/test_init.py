"""Initialisation: the spread that each scheme promises, biases 0, norms 1."""

import math

import pytest
import torch
from torch import nn

from vision.layers.init import SCHEMES, initialise

FAN_IN, FAN_OUT = 64 * 9, 128 * 9  # of a 3x3 convolution from 64 to 128 channels
EXPECTED = {
    "kaiming_normal": math.sqrt(2 / FAN_OUT),
    "kaiming_uniform": math.sqrt(2 / FAN_OUT),
    "xavier_normal": math.sqrt(2 / (FAN_IN + FAN_OUT)),
    "xavier_uniform": math.sqrt(2 / (FAN_IN + FAN_OUT)),
    "normal": 0.01,
}


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_spread(scheme):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(64, 128, 3), nn.BatchNorm2d(128), nn.Linear(4, 4))
    nn.init.constant_(network[1].weight, 5.0)
    assert initialise(network, scheme) is network
    weight = network[0].weight
    assert weight.std().item() == pytest.approx(EXPECTED[scheme], rel=0.03)
    limit = math.sqrt(3) * EXPECTED[scheme]  # a uniform distribution ends at sqrt(3) standard deviations
    assert (weight.abs().max().item() <= limit * 1.0001) == scheme.endswith("uniform")
    assert not network[0].bias.any()
    assert not network[2].bias.any()
    assert torch.equal(network[1].weight, torch.ones(128))


def test_torch_leaves_everything_and_unknown_is_refused():
    layer = nn.Linear(4, 4)
    before = layer.weight.clone()
    assert torch.equal(initialise(layer, "torch").weight, before)
    with pytest.raises(ValueError, match="xavier_uniform"):
        initialise(layer, "he")
