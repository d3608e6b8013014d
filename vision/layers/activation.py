"""Activation functions by name; every use gets a module of its own, because quantizers break on a shared one."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

__all__ = ["ACTIVATIONS", "build_activation"]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: nn.ReLU(inplace=True),
    "leaky_relu": lambda: nn.LeakyReLU(0.1, inplace=True),
    "prelu": nn.PReLU,
    "relu6": lambda: nn.ReLU6(inplace=True),
    # in place would be slower: their gradients need the input, so autograd would copy it first
    "silu": nn.SiLU,
    "hswish": nn.Hardswish,
    "gelu": nn.GELU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "none": nn.Identity,
}


def build_activation(name: str | None) -> nn.Module:
    """A new activation module by its name in `ACTIVATIONS`; "swish" is "silu", None is "none" (the identity).

    Where PyTorch can, it works in place: hand it a tensor that nobody else reads. ValueError lists the names.
    """
    name = {"swish": "silu", None: "none"}.get(name, name)
    if name not in ACTIVATIONS:
        raise ValueError(f"activation {name!r} is not known; choose one of: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()
