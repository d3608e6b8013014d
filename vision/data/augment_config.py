"""The settings of augmentation, checked when they are made."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

__all__ = ["PROBABILITIES", "AugmentConfig", "default_augmentation"]

PROBABILITIES = (
    "flip_horizontal", "flip_vertical", "quarter_turns", "mosaic", "mixup", "copy_paste", "blur", "noise", "grey",
    "cutout",
)  # fmt: skip
_AMPLITUDES = {"hue": 0.5, "saturation": 1.0, "brightness": 1.0, "contrast": 1.0, "rotate": 180.0, "cutout_size": 1.0}


@dataclass(frozen=True)
class AugmentConfig:
    """What is done to a training sample at random; the defaults do nothing but fit it to the network's size."""

    flip_horizontal: float = 0.0
    """Probability of mirroring left and right."""
    flip_vertical: float = 0.0
    """Probability of mirroring top and bottom."""
    quarter_turns: float = 0.0
    """Probability of turning by 90, 180 or 270 degrees."""
    rotate: float = 0.0
    """Turns by an angle of at most this many degrees."""
    scale: tuple[float, float] = (1.0, 1.0)
    """Range of the factor on the size that preprocessing would give; above 1 a part is cut out at random."""
    aspect: float = 1.0
    """Width over height changes by a factor between 1 / aspect and aspect."""
    keep_objects: bool = True
    """Draws a crop again, around an object, when it would show none of an image that has some."""
    min_visible: float = 0.15
    """An object is dropped when less than this share of its box is left by a crop (a crowd: when nothing is)."""
    min_side: float = 1.0
    """An object is dropped when a side of its box has fewer pixels than this after resizing."""
    hue: float = 0.0
    """Turns the hue by at most this share of the full circle."""
    saturation: float = 0.0
    """Multiplies the saturation by 1 - s .. 1 + s."""
    brightness: float = 0.0
    """Multiplies the brightness by 1 - b .. 1 + b."""
    contrast: float = 0.0
    """Multiplies the contrast by 1 - c .. 1 + c."""
    blur: float = 0.0
    """Probability of a Gaussian blur."""
    noise: float = 0.0
    """Probability of Gaussian noise."""
    grey: float = 0.0
    """Probability of taking the colour away."""
    cutout: float = 0.0
    """Probability of covering rectangles with the padding grey; objects that they hide are dropped."""
    cutout_holes: int = 3
    """At most this many rectangles."""
    cutout_size: float = 0.2
    """Their sides are at most this share of the image's."""
    mosaic: float = 0.0
    """Probability of putting four images together."""
    mixup: float = 0.0
    """Probability of blending with a second image."""
    copy_paste: float = 0.0
    """Probability of pasting objects of a second image (needs instance masks)."""
    extra: tuple[dict[str, Any], ...] = field(default=())
    """More transforms of albumentations that keep the image's size, in order: {"name": "RandomFog", "p": 0.1, ...}."""

    def __post_init__(self) -> None:
        for name in PROBABILITIES:
            self._check(name, getattr(self, name), 0.0, 1.0)
        for name, limit in _AMPLITUDES.items():
            self._check(name, getattr(self, name), 0.0, limit)
        self._check("min_visible", self.min_visible, 0.0, 1.0)
        object.__setattr__(self, "scale", tuple(float(factor) for factor in self.scale))
        object.__setattr__(self, "extra", tuple(dict(transform) for transform in self.extra))
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"AugmentConfig: scale {self.scale}; expected (low, high) with 0 < low <= high")
        if self.aspect < 1:
            raise ValueError(f"AugmentConfig: aspect {self.aspect}; expected at least 1")
        if self.cutout_holes < 1:
            raise ValueError(f"AugmentConfig: cutout_holes {self.cutout_holes}; expected at least 1")
        nameless = [transform for transform in self.extra if "name" not in transform]
        if nameless:
            raise ValueError(f"AugmentConfig: extra {nameless[0]} has no name; give the transform's class name")

    @staticmethod
    def _check(name: str, value: float, low: float, high: float) -> None:
        if not low <= value <= high:
            raise ValueError(f"AugmentConfig: {name} {value}; expected {low:g} to {high:g}")

    def to_dict(self) -> dict[str, Any]:
        content = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return {**content, "scale": list(self.scale), "extra": [dict(transform) for transform in self.extra]}


def default_augmentation(task: str) -> AugmentConfig:
    """The augmentation that a task is trained with unless told otherwise."""
    colour = {"hue": 0.015, "saturation": 0.5, "brightness": 0.3, "contrast": 0.2}
    if task == "semantic":
        return AugmentConfig(flip_horizontal=0.5, scale=(0.5, 2.0), aspect=1.1, **colour)
    if task in ("instance", "panoptic"):
        return AugmentConfig(flip_horizontal=0.5, scale=(0.5, 1.5), copy_paste=0.3, **colour)
    return AugmentConfig(flip_horizontal=0.5, scale=(0.5, 1.5), aspect=1.2, mosaic=0.5, **colour)
