"""Convolution, norm and activation as one block."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from vision.layers.activation import build_activation
from vision.layers.norm import Norm, build_norm

__all__ = ["ConvNormAct", "GroupedConv2d", "conv_pairs", "run_on_small_map", "scaled_channels"]


class GroupedConv2d(nn.Conv2d):
    """`nn.Conv2d` with groups, whose gradient stays in float32 where a CPU is slow with it in bfloat16.

    oneDNN's gradients of grouped convolutions take 3 to 12 times as long in bfloat16 as in float32, but for depthwise
    3x3 ones of stride 1, undilated (measured with torch 2.14 on AMX).
    """

    def forward(self, x: Tensor) -> Tensor:
        shape = (*self.kernel_size, *self.stride, *self.dilation)
        plain = self.groups == self.in_channels and shape == (3, 3, 1, 1, 1, 1)
        trained = torch.is_grad_enabled() and x.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        if plain or not trained:
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float()).to(x.dtype)


class ConvNormAct(nn.Sequential):
    """Convolution, then norm, then activation: (B, in_channels, H, W) -> (B, out_channels, H', W').

    `padding` None keeps the size at stride 1 (odd kernels). `bias` None means: only where no norm follows, for a norm
    takes it away again. `norm` and `activation` None or "none" leave that part out. State-dict keys: `0.` the
    convolution, `1.` the norm, as torchvision's Conv2dNormActivation.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int | tuple[int, int] = 3,
        stride: int = 1,
        *,
        padding: int | tuple[int, int] | None = None,
        dilation: int = 1,
        groups: int = 1,
        norm: Norm = "batch",
        activation: str | None = "relu",
        bias: bool | None = None,
    ):
        normed = norm not in (None, "none")
        if padding is None:
            sides = (kernel, kernel) if isinstance(kernel, int) else kernel
            padding = tuple((side - 1) // 2 * dilation for side in sides)
        convolution = nn.Conv2d if groups == 1 else GroupedConv2d
        layers: list[nn.Module] = [
            convolution(
                in_channels,
                out_channels,
                kernel,
                stride,
                padding,
                dilation,
                groups,
                not normed if bias is None else bias,
            )
        ]
        if normed:
            layers.append(build_norm(norm, out_channels))
        if activation not in (None, "none"):
            layers.append(build_activation(activation))
        super().__init__(*layers)
        self.out_channels = out_channels

    @property
    def conv(self) -> nn.Conv2d:
        return self[0]


def scaled_channels(channels: float, divisor: int = 8) -> int:
    """`channels` rounded to a multiple of `divisor`, never below 90 % of `channels` (MobileNets)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def conv_pairs(module: nn.Module, follower: str) -> list[tuple[str, str]]:
    """Names of children of `module` that may be a convolution and what follows it at once, a norm or an activation.

    In an `nn.Sequential` these are neighbours, identities between them left out; elsewhere conv, conv1, ... and the
    same name with `follower` ("bn" or "act") in place of "conv", where no norm stands between the two. Names mean that
    in this package alone: in other libraries' blocks an act2 may follow the sum with the shortcut.
    """
    children = dict(module.named_children())
    if not type(module).__module__.startswith(("vision.", "torch.nn.")):
        return []
    if type(module).forward is nn.Sequential.forward:
        return list(itertools.pairwise(name for name, child in children.items() if not isinstance(child, nn.Identity)))
    pairs = []
    for name in children:
        norm, behind = (name.replace("conv", other, 1) for other in ("bn", follower))
        between = norm != behind and not isinstance(children.get(norm, nn.Identity()), nn.Identity)
        if name.startswith("conv") and behind in children and not between:
            pairs.append((name, behind))
    return pairs


def run_on_small_map(module: nn.Module, x: Tensor, kernel: int = 3) -> Tensor:
    """`module(x)`, of convolutions up to `kernel`; with gradients in float32 even under autocast, where x (B, C, H, W)
    is so small that the kernel's outermost weights only ever meet padding.

    oneDNN can leave the bfloat16 gradient of such weights, which is zero, uninitialised (seen in torch 2.14 and 2.15 of
    a strided 3x3 convolution on a column and of 7x7 on 2x2), so small images would spoil the training.
    """
    if min(x.shape[-2:]) > kernel // 2 or not torch.is_grad_enabled():
        return module(x)
    with torch.autocast(x.device.type, enabled=False):
        return module(x.float())
