"""Any network of timm that has `features_only` (the extra `timm`)."""

from __future__ import annotations

import difflib

import torch
from torch import Tensor

from vision.backbones.base import Backbone, BackboneOptions

__all__ = ["TimmBackbone"]


class TimmBackbone(Backbone):
    """timm's network `name` under the backbone contract; level i is its last feature map of stride 2**i.

    `output_stride` is timm's own dilation, which some networks lack; norm, activation, width and initialisation are the
    network's own. ValueError where others are asked for, for an unknown name and for a network that takes images of one
    size alone (CoaT, MaxViT, Hiera), ImportError with the command that installs timm where it is absent.
    """

    divisor = 32  # HRNet adds maps of several strides

    def __init__(self, name: str, options: BackboneOptions):
        super().__init__()
        try:
            import timm
        except ImportError as error:
            raise ImportError(f"backbone 'timm:{name}' needs timm: pip install 'vision-suite[timm]'") from error
        if not timm.is_model(name):
            close = difflib.get_close_matches(name, timm.list_models(), n=6)
            near = f"near it: {', '.join(close)}" if close else "timm.list_models() lists all"
            raise ValueError(f"backbone 'timm:{name}': timm does not know it; {near}")
        options.refuse(f"timm:{name}", "norm", "activation", "width", "dilation_rule", "zero_init_residual", "init")
        strides, resizable = _strides_for_any_size(name)
        index_of = {stride.bit_length() - 1: index for index, stride in enumerate(strides)}
        self.levels = options.chosen_levels(sorted(index_of))
        dilated = {} if options.output_stride == 32 else {"output_stride": options.output_stride}
        dropped = {"drop_path_rate": options.drop_path} if options.drop_path else {}  # which some networks lack
        try:
            self.network = timm.create_model(
                name,
                features_only=True,
                in_chans=options.in_channels,
                out_indices=tuple(index_of[level] for level in self.levels),
                **resizable,
                **dilated,
                **dropped,
            )
        except (TypeError, AssertionError) as error:  # of the constructor, which takes no such option
            if not dilated and not dropped:
                raise
            asked = ", ".join(f"{option} {value}" for option, value in (dilated | dropped).items())
            raise ValueError(
                f"backbone 'timm:{name}': this network cannot be built with {asked} ({error or 'refused by timm'}); "
                "set `output_stride: 32`" + (" and `drop_path: 0`" if dropped else "")
            ) from None
        self.channels = tuple(self.network.feature_info.channels())
        self.strides = tuple(self.network.feature_info.reduction())

    def forward(self, x: Tensor) -> list[Tensor]:
        # transformers of timm return (B, H, W, C) under names that end in NHWC formats
        channels_last = getattr(self.network, "output_fmt", None)
        features = self.network(x)
        if channels_last is not None and str(channels_last).endswith("NHWC"):
            features = [feature.permute(0, 3, 1, 2) for feature in features]
        return list(features)


def _strides_for_any_size(name: str) -> tuple[list[int], dict[str, bool]]:
    """The strides of all feature maps, and what `timm.create_model` is to be told so that the network takes images of
    any size. ValueError if it cannot."""
    import timm

    known = timm.get_pretrained_cfg(name)
    fixed = known is not None and known.fixed_input_size
    resizable = {"dynamic_img_size": True} if fixed else {}
    with torch.device("meta"):  # no weights: this is to look at it
        try:
            network = timm.create_model(name, features_only=True, **resizable)
        except TypeError:  # of the constructor, which takes no such option
            if not fixed:
                raise
            network, resizable = timm.create_model(name, features_only=True), {}
        if fixed and not resizable:
            try:
                network.eval()(torch.empty(1, 3, 96, 160))
            except (AssertionError, RuntimeError) as error:
                size = " x ".join(str(side) for side in known.input_size[1:])
                raise ValueError(
                    f"backbone 'timm:{name}' takes images of {size} pixels alone ({error}); choose a network for any "
                    "size, as convnext, swin or pvt_v2"
                ) from None
    return network.feature_info.reduction(), resizable
