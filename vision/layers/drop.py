"""Dropping parts of feature maps while training, by name."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.ops import StochasticDepth, drop_block2d

__all__ = ["DROPS", "DropBlock", "add_stochastic_depth", "build_drop"]

DROPS = ("element", "channel", "block")


class DropBlock(nn.Module):
    """Squares of `block_size` pixels of (B, C, H, W) set to 0, the rest scaled to the same sum (arXiv:1810.12890).

    Sides are odd: an even `block_size` counts as one less, and a map smaller than a square loses the largest odd square
    that it has room for. Nothing happens in evaluation.
    """

    def __init__(self, rate: float, block_size: int = 7):
        super().__init__()
        self.rate, self.block_size = rate, block_size

    def forward(self, x: Tensor) -> Tensor:
        side = min(self.block_size, *x.shape[-2:])
        return drop_block2d(x, self.rate, side - 1 + side % 2, training=self.training)

    def extra_repr(self) -> str:
        return f"rate={self.rate}, block_size={self.block_size}"


def build_drop(kind: str, rate: float, *, block_size: int = 7) -> nn.Module:
    """A layer that drops the share `rate` of single values ("element", JMLR 15, 2014), of channels ("channel": spatial
    dropout, arXiv:1411.4280) or of the area in squares ("block"). ValueError lists the known kinds."""
    if not 0 <= rate < 1:
        raise ValueError(f"build_drop: rate {rate}; expected 0 up to, not including, 1")
    if kind == "element":
        return nn.Dropout(rate)
    if kind == "channel":
        return nn.Dropout2d(rate)
    if kind == "block":
        return DropBlock(rate, block_size)
    raise ValueError(f"drop {kind!r} is not known; choose one of: {', '.join(DROPS)}")


def add_stochastic_depth(backbone: nn.Module, rate: float) -> None:
    """Lets the residual blocks of `backbone` leave out their branch for single images while training: the last block
    with probability `rate`, those before it in proportion to their place (arXiv:1603.09382). ValueError without any.

    A residual block has an attribute `drop_path` for it and, where it may come without its shortcut, says so in
    `shortcut`.
    """
    blocks = [block for block in backbone.modules() if hasattr(block, "drop_path") and getattr(block, "shortcut", True)]
    if not blocks:
        raise ValueError(
            f"drop_path: {type(backbone).__name__} has no residual branches to leave out; choose a ResNet, an inverted "
            "residual network (MobileNetV2, V3) or the CSP backbone of YOLO"
        )
    for place, block in enumerate(blocks):
        layer = StochasticDepth(rate * place / max(len(blocks) - 1, 1), "row")
        block.drop_path = layer.train(block.training)
