"""Convolutions and the sums and activations behind them in one pass over memory: for inference on a CPU."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vision.layers.context import AtrousConv
from vision.layers.conv import GroupedConv2d, conv_pairs
from vision.layers.planar import PlanarConv2d

__all__ = ["FusedConv2d", "FusedSum", "can_fuse", "fuse_convolutions", "fuse_sum"]

_LARGE = 1 << 20  # weights of a convolution
_LOCK = threading.Lock()  # of the layouts that convolutions keep

# name of oneDNN's post-operation, its numbers, its algorithm
Attribute = tuple[str, list[float], str]
ATTRIBUTES: dict[type[nn.Module], Callable[[nn.Module], Attribute]] = {
    nn.ReLU: lambda module: ("relu", [], ""),
    nn.ReLU6: lambda module: ("hardtanh", [0.0, 6.0], ""),
    nn.LeakyReLU: lambda module: ("leaky_relu", [module.negative_slope], ""),
    nn.Hardswish: lambda module: ("hardswish", [], ""),
    nn.SiLU: lambda module: ("swish", [], ""),
    nn.GELU: lambda module: ("gelu", [], module.approximate),
}


def can_fuse(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this build of PyTorch has oneDNN's fused convolution for `device` and `dtype`."""
    if device.type != "cpu" or dtype not in (torch.float32, torch.bfloat16):
        return False
    library = torch.ops.mkldnn
    if not torch.backends.mkldnn.is_available() or not hasattr(library, "_convolution_pointwise"):
        return False
    return dtype == torch.float32 or bool(library._is_mkldnn_bf16_supported())


class _Fused(nn.Conv2d):
    """A convolution with the weights of `conv`, for inference: it has no gradient, no exporter knows it, and its
    precision is that of its weights. PyTorch's compiler uses the same operator; called by itself, it costs no
    compilation.

    Which layout of the weights is fastest depends on the input's shape, and oneDNN makes it anew at every call, which
    is half the time on small maps; so it is kept for shapes that come again, the last few of them. (One kept for
    another shape is worse than none: to turn one layout into another takes up to a hundred times as long.) Copies of
    the weights are the price.
    """

    def __init__(self, conv: nn.Conv2d, activation: nn.Module | None):
        super().__init__(
            conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation,
            conv.groups, device="meta",
        )  # fmt: skip
        self.weight, self.bias = conv.weight, conv.bias
        self.activation = activation
        self._layouts: dict[torch.Size, Tensor | None] = {}  # by shape of the input; None: it was there once
        # shapes; a head that levels of a pyramid share sees five in turn, and large weights are worth few copies
        self.kept = 8 if conv.weight.numel() <= _LARGE else 2

    def _weights(self, x: Tensor) -> tuple[Any, ...]:
        """Weight, bias, padding, stride, dilation and groups, as the operators want them for the input x."""
        geometry = (self.padding, self.stride, self.dilation, self.groups)
        weight = self._layouts.get(x.shape)
        if weight is not None:
            return weight, self.bias, *geometry
        with _LOCK:  # a model may serve several threads
            if x.shape not in self._layouts:
                if len(self._layouts) == self.kept:
                    del self._layouts[next(iter(self._layouts))]
                self._layouts[x.shape] = None
                return self.weight, self.bias, *geometry
            plain = self.weight.detach().to_mkldnn()
            weight = torch._C._nn.mkldnn_reorder_conv2d_weight(plain, *geometry, list(x.shape))
            self._layouts[x.shape] = weight
        return weight, self.bias, *geometry

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_layouts": {}}  # which can neither be copied nor stored

    def _apply(self, *arguments: Any, **keywords: Any) -> _Fused:
        self._layouts = {}  # of another precision
        return super()._apply(*arguments, **keywords)


class FusedConv2d(_Fused):
    """`activation(conv(x))` by oneDNN, which applies the activation to what it is about to write.

    The activation by itself reads and writes the whole map once more, which takes longer than a depthwise or 1x1
    convolution. None: the convolution alone.
    """

    def __init__(self, conv: nn.Conv2d, activation: nn.Module | None):
        super().__init__(conv, activation)
        self.attribute = ("none", [], "") if activation is None else ATTRIBUTES[type(activation)](activation)

    def forward(self, x: Tensor) -> Tensor:
        if x.numel() == 0:  # no images, or no regions: the operator has not been made for that
            found = super().forward(x)
            return found if self.activation is None else self.activation(found)
        run = torch.ops.mkldnn._convolution_pointwise
        x = x.to(self.weight.dtype)
        return run(x, *self._weights(x), *self.attribute)


class FusedSum(_Fused):
    """`conv(x) + other`, or the ReLU of it, by oneDNN: the end of a residual block in one pass in place of three."""

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        if x.numel() == 0:
            total = super().forward(x) + other
            return total if self.activation is None else self.activation(total)
        x, other = x.to(self.weight.dtype), other.to(self.weight.dtype)
        activation = None if self.activation is None else "relu"
        run = torch.ops.mkldnn._convolution_pointwise.binary
        return run(x, other, *self._weights(x), "add", None, activation, [], None)


def fuse_sum(owner: nn.Module, conv: str, norm: str, activation: nn.Module | None) -> None:
    """Puts a `FusedSum` in the place of the child `conv` of `owner`, whose output a shortcut is added to and
    `activation` follows, if it can be: plain, without a norm behind it, and with ReLU or nothing."""
    children = dict(owner.named_children())
    bare = type(children.get(norm, nn.Identity())) is nn.Identity
    if bare and _is_plain(children[conv]) and (activation is None or type(activation) is nn.ReLU):
        setattr(owner, conv, FusedSum(children[conv], activation))


def fuse_convolutions(module: nn.Module) -> None:
    """Puts a `FusedConv2d` in the place of every plain convolution, with the activation that follows it at once if any,
    and a `FusedSum` where a block has a method `fuse_sum` that does so, in place.

    `conv_pairs` says what follows at once. Fold batch norms before and store the weights in their precision after it.
    """
    for child in list(module.modules()):
        if hasattr(child, "fuse_sum"):
            child.fuse_sum()
        for conv_name, activation_name in conv_pairs(child, "act"):
            conv, activation = getattr(child, conv_name), getattr(child, activation_name)
            if _is_plain(conv) and type(activation) in ATTRIBUTES:
                setattr(child, conv_name, FusedConv2d(conv, activation))
                setattr(child, activation_name, nn.Identity())
    for child in list(module.modules()):
        for name, conv in list(child.named_children()):
            if _is_plain(conv):
                setattr(child, name, FusedConv2d(conv, None))


def _is_plain(conv: nn.Module) -> bool:
    """Whether `conv` does what its weight, stride, padding, dilation and groups say, and no more."""
    atrous = type(conv) is AtrousConv and conv.groups > 1 and not conv.wide  # others are computed in other ways
    if type(conv) not in (nn.Conv2d, GroupedConv2d, PlanarConv2d) and not atrous:
        return False
    return conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
