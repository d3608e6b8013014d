"""Backbones by name; `build_backbone` is the one way to get one."""

from __future__ import annotations

from typing import Any

from vision.backbones.base import Backbone, BackboneOptions

__all__ = ["Backbone", "BackboneOptions", "backbone_names", "build_backbone"]


def backbone_names() -> list[str]:
    """The names that `build_backbone` knows, beside "timm:NAME"."""
    from vision.backbones.darknet import CSP_SCALES
    from vision.backbones.mobilenet import MOBILENETS
    from vision.backbones.resnet import RESNETS
    from vision.backbones.vgg import VGGS

    return [*RESNETS, *MOBILENETS, *VGGS, *CSP_SCALES]


def build_backbone(name: str, *, taps: tuple[int | str, ...] | None = None, **options: Any) -> Backbone:
    """A freshly initialised backbone by name; `options` are the fields of `BackboneOptions`.

    "timm:NAME" is timm's network of that name, if the extra is installed. `taps` is for MobileNets only: positions in
    their feature list instead of levels. ValueError lists the known names, or the known options.
    """
    unknown = set(options) - set(BackboneOptions.__dataclass_fields__)
    if unknown:
        raise ValueError(
            f"backbone {name!r} takes no option {', '.join(sorted(unknown))}; "
            f"it takes {', '.join(BackboneOptions.__dataclass_fields__)}"
        )
    if options.get("levels") is not None:
        options["levels"] = tuple(options["levels"])
    chosen = BackboneOptions(**options)
    if name.startswith("timm:"):
        from vision.backbones.timm import TimmBackbone

        return TimmBackbone(name.removeprefix("timm:"), chosen)
    from vision.backbones.darknet import CSP_SCALES, build_csp
    from vision.backbones.mobilenet import MOBILENETS, MobileNet
    from vision.backbones.resnet import RESNETS, ResNet
    from vision.backbones.vgg import VGG, VGGS

    if name in MOBILENETS:
        if name == "mobilenet_v1":
            chosen.refuse(name, "drop_path", "zero_init_residual")  # it has no residual blocks
        return MobileNet(MOBILENETS[name], chosen, taps)
    if taps:
        raise ValueError(f"backbone {name!r}: taps are for MobileNets; use levels")
    if name in RESNETS:
        return ResNet(RESNETS[name], chosen)
    if name in VGGS:
        chosen.refuse(name, "drop_path", "zero_init_residual", "dilation_rule")
        return VGG(VGGS[name], chosen)
    if name in CSP_SCALES:
        return build_csp(name, chosen)
    raise ValueError(f"backbone {name!r} is not known; choose one of: {', '.join(backbone_names())}, or timm:NAME")
