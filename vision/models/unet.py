"""U-Net (arXiv:1505.04597) on its own encoder or on any backbone, with residual and attention-gate variants.

Variants: residual blocks (arXiv:1711.10684), attention gates (arXiv:1804.03999), "valid" convolutions as in the paper.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vision.backbones.base import Backbone
from vision.layers.conv import ConvNormAct
from vision.layers.norm import Norm
from vision.layers.resize import double, resize
from vision.models.base import SegmentOutputs
from vision.models.segmenter import DEFAULT_LOSS, Segmenter, build_features, logit_channels
from vision.ops.padding import centre_crop, mirror, valid_margins
from vision.structures import ClassMap, Targets

__all__ = ["AttentionGate", "DoubleConv", "UNet", "UNetDecoder", "UNetEncoder", "build_pyramid", "build_unet"]


class DoubleConv(nn.Module):
    """Two 3x3 convolutions with norm and ReLU; `padding` 0 takes two pixels off every side; residual adds the input."""

    def __init__(
        self, in_channels: int, out_channels: int, *, padding: int = 1, residual: bool = False, norm: Norm = "batch"
    ):
        super().__init__()
        self.first = ConvNormAct(in_channels, out_channels, 3, padding=padding, norm=norm)
        last = None if residual else "relu"
        self.second = ConvNormAct(out_channels, out_channels, 3, padding=padding, norm=norm, activation=last)
        if residual:
            self.shortcut = ConvNormAct(in_channels, out_channels, 1, norm=norm, activation=None)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        out = self.second(self.first(x))
        return F.relu(out + centre_crop(self.shortcut(x), out.shape[-2:])) if self.residual else out


class AttentionGate(nn.Module):
    """The skip connection times a gate in [0, 1] a pixel, computed from it and from the decoder's features."""

    def __init__(self, skip_channels: int, gate_channels: int, *, norm: Norm = "batch"):
        super().__init__()
        width = max(skip_channels // 2, 1)
        self.skip = ConvNormAct(skip_channels, width, 1, norm=norm, activation=None)
        self.gate = ConvNormAct(gate_channels, width, 1, norm=norm, activation=None)
        self.score = nn.Conv2d(width, 1, 1)

    def forward(self, skip: Tensor, gate: Tensor) -> Tensor:
        return skip * torch.sigmoid(self.score(F.relu(self.skip(skip) + self.gate(gate))))


class UNetEncoder(Backbone):
    """The paper's contracting path: double convolutions of `width`, 2 `width`, ... with 2x2 max pooling between them.

    A backbone: images (B, in_channels, H, W) -> `depth` + 1 maps of strides 1, 2, 4, ..., finest first.
    """

    def __init__(
        self,
        in_channels: int = 3,
        width: int = 64,
        depth: int = 4,
        *,
        padding: int = 1,
        residual: bool = False,
        norm: Norm = "batch",
    ):
        super().__init__()
        if depth < 1:
            raise ValueError(f"UNetEncoder: depth {depth}; expected 1 pooling or more")
        self.channels = tuple(width * 2**level for level in range(depth + 1))
        self.levels = tuple(range(depth + 1))
        self.strides = tuple(2**level for level in self.levels)
        before = (in_channels, *self.channels)
        self.blocks = nn.ModuleList(
            DoubleConv(a, b, padding=padding, residual=residual, norm=norm) for a, b in zip(before, self.channels)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        features: list[Tensor] = []
        for block in self.blocks:
            x = block(F.max_pool2d(x, 2) if features else x)
            features.append(x)
        return features


class _UpBlock(nn.Module):
    """One step up: the deep map doubled, joined with the skip connection, two convolutions."""

    def __init__(
        self,
        deep: int,
        skip: int,
        out: int,
        *,
        up_convolution: bool,
        attention: bool,
        padding: int,
        residual: bool,
        norm: Norm,
    ):
        super().__init__()
        self.up = nn.ConvTranspose2d(deep, out, 2, 2) if up_convolution else None
        deep = out if up_convolution else deep
        self.attention = AttentionGate(skip, deep, norm=norm) if attention and skip else None
        self.convolutions = DoubleConv(deep + skip, out, padding=padding, residual=residual, norm=norm)
        self.padding = padding

    def forward(self, deep: Tensor, skip: Tensor | None) -> Tensor:
        deep = double(deep) if self.up is None else self.up(deep)
        if skip is not None:
            if self.padding:
                deep = resize(deep, skip.shape[-2:], "nearest")
            else:
                skip = centre_crop(skip, deep.shape[-2:])
            if self.attention is not None:
                skip = self.attention(skip, deep)
            deep = torch.cat([deep, skip], dim=1)
        return self.convolutions(deep)


class UNetDecoder(nn.Module):
    """The expanding path and the classifier: encoder maps finest first -> logits.

    `widths` has one channel count a step, deepest step first. A step more than there are skip connections doubles
    once more without one; fewer steps stop at a coarser stride. `up_convolution`: a learnt 2x2 one, as in the paper;
    else nearest pixels.
    """

    def __init__(
        self,
        channels: Sequence[int],
        classes: int,
        widths: Sequence[int],
        *,
        up_convolution: bool = True,
        attention: bool = False,
        padding: int = 1,
        residual: bool = False,
        norm: Norm = "batch",
        classifier_kernel: int = 1,
    ):
        super().__init__()
        skips = [*reversed(channels[:-1]), *[0] * len(widths)][: len(widths)]
        deeps = [channels[-1], *widths[:-1]]
        self.blocks = nn.ModuleList(
            _UpBlock(
                deep,
                skip,
                out,
                up_convolution=up_convolution,
                attention=attention,
                padding=padding,
                residual=residual,
                norm=norm,
            )
            for deep, skip, out in zip(deeps, skips, widths)
        )
        self.classifier = nn.Conv2d(widths[-1], classes, classifier_kernel, padding=classifier_kernel // 2)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        x, skips = features[-1], list(features[:-1])
        for block in self.blocks:
            x = block(x, skips.pop() if skips else None)
        return self.classifier(x)


class UNet(Segmenter):
    """A Segmenter; with `valid` convolutions the input is mirrored around its border: every pixel gets a class."""

    valid_depth = 0  # the pooling steps of a network with valid convolutions; 0: padded ones

    def forward(self, images: Tensor, targets: Targets | None = None) -> SegmentOutputs:
        if not self.valid_depth:
            return super().forward(images, targets)
        height, width = images.shape[-2:]
        prepared = self.prepare(images)
        top, bottom = valid_margins(height, self.valid_depth)
        left, right = valid_margins(width, self.valid_depth)
        logits = self.head(self.backbone(mirror(prepared, (top, bottom, left, right)))).float()
        return SegmentOutputs(logits[..., :height, :width], [])


def build_pyramid(
    backbone: str, in_channels: int, options: Mapping[str, Any] | None = None, **defaults: Any
) -> Backbone:
    """A backbone as an encoder with skip connections: levels 1 to 5, or all that a network of timm has."""
    levels = None if backbone.startswith("timm:") else (1, 2, 3, 4, 5)
    return build_features(backbone, levels, in_channels, options, **defaults)


def build_unet(
    classes: ClassMap,
    *,
    backbone: str = "unet",
    width: int = 32,
    depth: int = 4,
    widths: Sequence[int] | None = None,
    up_convolution: bool = True,
    attention: bool = False,
    residual: bool = False,
    valid: bool = False,
    norm: Norm = "batch",
    classifier_kernel: int = 1,
    backbone_options: dict[str, Any] | None = None,
    in_channels: int = 3,
    loss: str | dict = DEFAULT_LOSS,
    mode: str = "multiclass",
) -> UNet:
    """U-Net. `backbone` "unet" is the paper's encoder, with `width` channels at first (there: 64) and `depth`
    poolings; any other name is a backbone's.

    `widths`: channels of the decoder's steps, deepest first (default: the paper's, or 128, 64, 48, 24 on a backbone,
    which ends at stride 2; fewer steps end coarser). `valid` convolutions need the paper's encoder.
    `backbone_options`: see `backbones.BackboneOptions`; `levels` other than 1 to 5 leave skip connections out.
    Networks of timm have the levels that they have (transformers mostly 2 to 5).
    """
    if backbone == "unet":
        if backbone_options:
            raise ValueError('build_unet: backbone_options are for other backbones; "unet" takes width and depth')
        encoder = UNetEncoder(in_channels, width, depth, padding=0 if valid else 1, residual=residual, norm=norm)
        widths = widths or encoder.channels[-2::-1]
    elif valid:
        raise ValueError(f'build_unet: valid convolutions need backbone "unet", not {backbone!r}')
    else:
        encoder = build_pyramid(backbone, in_channels, backbone_options, norm=norm)
        widths = widths or (128, 64, 48, 24)
    decoder = UNetDecoder(
        encoder.channels,
        logit_channels(classes, mode),
        widths,
        up_convolution=up_convolution,
        attention=attention,
        padding=0 if valid else 1,
        residual=residual,
        norm=norm,
        classifier_kernel=classifier_kernel,
    )
    model = UNet(classes, encoder, decoder, loss=loss, mode=mode, in_channels=in_channels)
    if valid:
        model.valid_depth = depth
    elif backbone == "unet":
        model.divisor = 2**depth
    return model
