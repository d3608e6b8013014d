"""Networks made ready for inference: batch norms folded into the convolutions before them, weights in the precision
that they are used in. The same function, with less to compute."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from vision.layers.attention import SqueezeExcitation
from vision.layers.context import AtrousConv
from vision.layers.conv import ConvNormAct, GroupedConv2d, conv_pairs
from vision.layers.fuse import FusedConv2d, FusedSum
from vision.layers.norm import BatchNorm
from vision.layers.planar import PlanarConv2d

__all__ = ["fold_batch_norms", "store_weights"]

Network = TypeVar("Network", bound=nn.Module)
PLAIN = (
    nn.Conv2d, FusedConv2d, FusedSum, GroupedConv2d, PlanarConv2d, AtrousConv, nn.ConvTranspose2d, nn.Linear,
)  # fmt: skip


def fold_batch_norms(model: Network) -> Network:
    """A copy of `model`, in evaluation mode, without the batch norms that directly follow a convolution.

    These are neighbours in an `nn.Sequential`, and members of one module named conv, conv1, ... and bn, bn1, ... The
    copy is for inference: it cannot be trained on, and its state-dict keys differ from the original's.
    """
    folded = copy.deepcopy(model).eval()
    for module in list(folded.modules()):
        for conv_name, norm_name in conv_pairs(module, "bn"):
            conv, norm = getattr(module, conv_name), getattr(module, norm_name)
            plain = type(norm) in (nn.BatchNorm2d, BatchNorm)  # others may hold an activation besides
            if isinstance(conv, nn.Conv2d) and plain and norm.track_running_stats:
                setattr(module, conv_name, fuse_conv_bn_eval(conv, norm))
                setattr(module, norm_name, nn.Identity())
    for module in folded.modules():
        if isinstance(module, ConvNormAct) and isinstance(module[-1], nn.SiLU | nn.Hardswish):
            module[-1].inplace = True  # nobody else sees the convolution's output, and no gradient needs it
        if isinstance(module, SqueezeExcitation):
            module.inplace = True  # as above: it stands behind a block's depthwise convolution
    return folded


def store_weights(module: nn.Module, dtype: torch.dtype) -> None:
    """Keeps the weights of convolutions and linear layers in `dtype`, in place: what autocast would make of them anew
    at every call. Not of other subclasses, which may do more with their weights, nor in modules that say
    `full_precision`."""
    if getattr(module, "full_precision", False):
        return
    if type(module) in PLAIN:
        module.to(dtype)
    for child in module.children():
        store_weights(child, dtype)
