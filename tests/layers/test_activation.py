"""Activations by name, against their formulas."""

import math

import pytest
import torch

from vision.layers.activation import ACTIVATIONS, build_activation

X = -1.5
SIGMOID = 1 / (1 + math.exp(1.5))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("relu", 0.0),
        ("leaky_relu", -0.15),
        ("prelu", -0.375),  # initial slope 0.25
        ("relu6", 0.0),
        ("silu", X * SIGMOID),
        ("swish", X * SIGMOID),
        ("hswish", X * (X + 3) / 6),
        ("gelu", X * 0.5 * (1 + math.erf(X / math.sqrt(2)))),
        ("sigmoid", SIGMOID),
        ("tanh", math.tanh(X)),
        ("none", X),
        (None, X),
    ],
)
def test_value(name, expected):
    assert build_activation(name)(torch.tensor([X])).item() == pytest.approx(expected, abs=1e-6)


def test_every_use_gets_its_own_module():
    for name in ACTIVATIONS:
        assert build_activation(name) is not build_activation(name)


def test_unknown_name_lists_the_known():
    with pytest.raises(ValueError, match="leaky_relu"):
        build_activation("rellu")
