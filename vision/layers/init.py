"""Weight initialisation by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

__all__ = ["SCHEMES", "initialise"]

SCHEMES: dict[str, Callable[[Tensor], Tensor]] = {
    "kaiming_normal": partial(nn.init.kaiming_normal_, mode="fan_out", nonlinearity="relu"),
    "kaiming_uniform": partial(nn.init.kaiming_uniform_, mode="fan_out", nonlinearity="relu"),
    "xavier_normal": nn.init.xavier_normal_,
    "xavier_uniform": nn.init.xavier_uniform_,
    "normal": partial(nn.init.normal_, std=0.01),
}

_WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear)
_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm2d)


def initialise(module: nn.Module, scheme: str = "kaiming_normal") -> nn.Module:
    """The same module, its convolutions and linear layers drawn anew by `scheme`, biases 0, norms 1 and 0.

    Kaiming (arXiv:1502.01852) counts outgoing connections, as ResNets do; Xavier is Glorot and Bengio (2010);
    "normal" has standard deviation 0.01. "torch" leaves everything as PyTorch made it. ValueError lists the names.
    """
    if scheme == "torch":
        return module
    if scheme not in SCHEMES:
        raise ValueError(f"initialisation {scheme!r} is not known; choose one of: torch, {', '.join(SCHEMES)}")
    for part in module.modules():
        if isinstance(part, _WEIGHTED):
            SCHEMES[scheme](part.weight)
        elif isinstance(part, _NORMS) and part.weight is not None:
            nn.init.ones_(part.weight)
        else:
            continue
        if part.bias is not None:
            nn.init.zeros_(part.bias)
    return module
