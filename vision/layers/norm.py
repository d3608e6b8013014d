"""Normalisation layers for feature maps (B, C, H, W), by name; those other than batch norm take (B, C, ...) too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "NORMS",
    "BatchNorm",
    "ChannelLayerNorm",
    "ChannelRMSNorm",
    "FrozenBatchNorm",
    "InstanceNorm",
    "Norm",
    "build_norm",
    "replace_norms",
]

# a name in `NORMS`, or a function of the channel count (for another epsilon or momentum), or None for no norm
Norm = str | Callable[[int], nn.Module] | None


class BatchNorm(nn.BatchNorm2d):
    """Batch norm that trains on a single value a channel too, by its running statistics; PyTorch's own would raise.

    A batch of one image has such maps: the coarsest level of a small image is one place.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.shape[0] * x.shape[2] * x.shape[3] == 1:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        return super().forward(x)


class FrozenBatchNorm(nn.Module):
    """Batch norm whose statistics and affine parameters are constants; state-dict keys as `nn.BatchNorm2d`.

    `num_batches_tracked` of a trained batch norm is accepted when loading and not kept.
    """

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *rest: Any) -> None:
        state_dict.pop(prefix + "num_batches_tracked", None)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, eps={self.eps}"


class ChannelLayerNorm(nn.LayerNorm):
    """Layer norm over the channels of each place of (B, C, H, W) (ConvNeXt, arXiv:2201.03545)."""

    def __init__(self, channels: int, eps: float = 1e-6):
        super().__init__(channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        x = x.movedim(1, -1)  # a view of contiguous memory when x is channels_last
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps).movedim(-1, 1)


class ChannelRMSNorm(nn.RMSNorm):
    """RMS norm over the channels of each place of (B, C, H, W) (arXiv:1910.07467)."""

    def __init__(self, channels: int, eps: float = 1e-6):
        super().__init__(channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        x = x.movedim(1, -1)
        return F.rms_norm(x, self.normalized_shape, self.weight, self.eps).movedim(-1, 1)


class InstanceNorm(nn.InstanceNorm2d):
    """Instance norm with scale and shift (arXiv:1607.08022). A map of one pixel, as image pooling and the coarsest
    levels have it, has no statistics of its own: it is scaled and shifted alone."""

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__(channels, eps=eps, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2:].numel() == 1:
            shape = (-1, *[1] * (x.ndim - 2))
            return x * self.weight.view(shape) + self.bias.view(shape)
        # the function, not the parent: that one takes (B, C, L) for one image (C, H, W)
        return F.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.eps)


def _group_norm(channels: int) -> nn.Module:
    # 32 as in arXiv:1803.08494, if they divide, of two channels or more: one alone has no spread on a map of one pixel
    groups = max(count for count in range(1, 33) if channels % count == 0 and (channels >= 2 * count or count == 1))
    return nn.GroupNorm(groups, channels)


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": BatchNorm,
    "sync_batch": nn.SyncBatchNorm,
    "frozen_batch": FrozenBatchNorm,
    "group": _group_norm,
    "layer": ChannelLayerNorm,
    "instance": InstanceNorm,
    "rms": ChannelRMSNorm,
    "none": lambda channels: nn.Identity(),
}


def build_norm(norm: Norm, channels: int) -> nn.Module:
    """A new norm over `channels` channels: a name in `NORMS`, a function of the channel count, or None (identity).

    "batch" has PyTorch's epsilon 1e-5 and momentum 0.1; for others give `functools.partial(nn.BatchNorm2d, ...)`,
    which comes back as a `BatchNorm` with these. ValueError lists the names.
    """
    if norm is None:
        return nn.Identity()
    if callable(norm):
        built = norm(channels)
        return BatchNorm(channels, built.eps, built.momentum) if type(built) is nn.BatchNorm2d else built
    if norm not in NORMS:
        raise ValueError(f"norm {norm!r} is not known; choose one of: {', '.join(NORMS)}")
    return NORMS[norm](channels)


@torch.no_grad()
def replace_norms(model: nn.Module, norm: Norm) -> None:
    """Puts `norm` (as for `build_norm`) in place of every batch norm of `model`, backbone, neck and heads alike.

    Scales and shifts are kept where the new norm has them, epsilon and momentum where a name makes a batch norm again;
    what a norm does besides (timm's have their activation inside) stays behind the new one. A `BatchNorm1d`, as over
    the codes of EncNet, stays what it is where `norm` makes a `BatchNorm2d`. ValueError for an unknown name, or without
    a batch norm.
    """
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d | FrozenBatchNorm)
    ]
    if not found:
        raise ValueError(f"norms: {type(model).__name__} has no batch norm that {norm!r} could take the place of")
    for parent, name, old in found:
        new = build_norm(norm, len(old.running_mean)).train(old.training)
        if isinstance(old, nn.BatchNorm1d) and isinstance(new, nn.BatchNorm2d):
            continue
        for key in ("weight", "bias"):
            if isinstance(getattr(new, key, None), Tensor) and isinstance(getattr(old, key, None), Tensor):
                getattr(new, key).copy_(getattr(old, key))
        if isinstance(norm, str) and hasattr(new, "running_mean"):
            new.eps = old.eps
            if hasattr(new, "momentum"):
                new.momentum = getattr(old, "momentum", new.momentum)
        besides = list(old.children())
        setattr(parent, name, nn.Sequential(new, *besides) if besides else new)
