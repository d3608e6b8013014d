"""Squeeze-excitation against torchvision's."""

import torch
from torch import nn
from torchvision.ops import SqueezeExcitation as Oracle

from vision.layers.attention import SqueezeExcitation


def test_equals_torchvision():
    for hard, gate in ((False, nn.Sigmoid), (True, nn.Hardsigmoid)):
        theirs = Oracle(12, 4, scale_activation=gate)
        ours = SqueezeExcitation(12, 4, hard=hard)
        ours.load_state_dict(theirs.state_dict())
        x = torch.randn(2, 12, 5, 3)
        torch.testing.assert_close(ours(x), theirs(x))


def test_in_place_it_writes_over_its_input():
    module, x = SqueezeExcitation(8, 4), torch.randn(2, 8, 5, 3)
    with torch.no_grad():
        expected = module(x.clone())
        assert module(x) is not x
        module.inplace = True
        assert module(x) is x
    torch.testing.assert_close(x, expected)
