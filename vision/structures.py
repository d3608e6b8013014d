"""The data types that readers, models, metrics and the engine hand to one another; nothing else lives here.

Boxes are xyxy in pixels of the image beside them, continuous coordinates: the left edge of the first pixel is 0, the
right edge of the last one is the width. Labels count from 0 without a background class; the data set's own category
ids and names travel in a `ClassMap`.

`Target` and `Sample` hold numpy arrays: they describe one image on the host, where it is decoded and augmented.
`Targets`, `Batch`, `Detections` and `Segmentation` hold tensors and are registered as pytrees.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils import _pytree as pytree

__all__ = [
    "Batch", "ClassMap", "Detections", "Geometry", "LabelRule", "Sample", "Segmentation", "Target", "Targets",
    "ignore_label",
]  # fmt: skip


def ignore_label(classes: int) -> int:
    """The label that counts nowhere, beside labels 0 .. `classes` - 1: 255 as long as it is free, else -1."""
    return 255 if classes <= 255 else -1


@dataclass(frozen=True)
class ClassMap:
    """Names of the labels 0..C-1 and the category ids they have in the data set's own files.

    `ids` default to 0..C-1 and may have gaps (COCO: 1..90 for 80 classes). `things` says which classes are countable
    objects (True) rather than stuff (False); it matters for panoptic data only and defaults to all True.
    """

    names: tuple[str, ...]
    ids: tuple[int, ...] = ()
    things: tuple[bool, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(str(name) for name in self.names))
        object.__setattr__(self, "ids", tuple(int(i) for i in self.ids) or tuple(range(len(self.names))))
        object.__setattr__(self, "things", tuple(bool(t) for t in self.things) or (True,) * len(self.names))
        if not self.names:
            raise ValueError("ClassMap: no class names; at least one class is needed")
        for field, values in (("ids", self.ids), ("things", self.things)):
            if len(values) != len(self.names):
                raise ValueError(f"ClassMap: {len(values)} {field} for {len(self.names)} names; give one for each")
        for field, values in (("name", self.names), ("id", self.ids)):
            repeated = sorted({str(v) for v in values if values.count(v) > 1})
            if repeated:
                raise ValueError(f"ClassMap: {field} {', '.join(repeated)} occurs more than once")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def ignore(self) -> int:
        """The label of pixels that have none of the classes, or an unknown one: 255, with more than 255 classes -1."""
        return ignore_label(len(self))

    @classmethod
    def of(cls, classes: ClassMap | Sequence[str] | int) -> ClassMap:
        """A ClassMap from itself, from names, or from a count ("class 0", "class 1", ...)."""
        if isinstance(classes, ClassMap):
            return classes
        if isinstance(classes, int):
            return cls(tuple(f"class {i}" for i in range(classes)))
        return cls(tuple(classes))

    def label_of(self, category_id: int) -> int:
        """The label 0..C-1 of a data set's category id. KeyError names the id when it is not known."""
        try:
            return self.ids.index(category_id)
        except ValueError:
            raise KeyError(f"category id {category_id} is not one of {list(self.ids)}") from None

    def to_dict(self) -> dict[str, list]:
        return {"names": list(self.names), "ids": list(self.ids), "things": list(self.things)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Sequence]) -> ClassMap:
        return cls(tuple(content["names"]), tuple(content.get("ids", ())), tuple(content.get("things", ())))


def _no_boxes() -> np.ndarray:
    return np.zeros((0, 4), np.float32)


@dataclass(frozen=True)
class Target:
    """What is true of one image; arrays are numpy, all of one image's coordinate frame.

    boxes (N, 4) float32 · labels (N,) int64 · crowd (N,) bool: one annotation over many objects · difficult (N,) bool
    (VOC) · area (N,) float64 in pixels, of the mask where there is one · masks (N, H, W) bool or None · semantic
    (H, W) uint8 or int32 with `ClassMap.ignore`, or None · image_id as in the files · size (height, width).
    Absent per-object arrays are filled with their neutral value, so N is always the number of boxes.
    """

    boxes: np.ndarray = dataclasses.field(default_factory=_no_boxes)
    labels: np.ndarray | None = None
    crowd: np.ndarray | None = None
    difficult: np.ndarray | None = None
    area: np.ndarray | None = None
    masks: np.ndarray | None = None
    semantic: np.ndarray | None = None
    image_id: int | str = 0
    size: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        boxes = np.asarray(self.boxes, np.float32).reshape(-1, 4)
        count = len(boxes)
        set_ = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731 (frozen dataclass)
        set_("boxes", boxes)
        set_("labels", np.zeros(count, np.int64) if self.labels is None else np.asarray(self.labels, np.int64))
        set_("crowd", np.zeros(count, bool) if self.crowd is None else np.asarray(self.crowd, bool))
        set_("difficult", np.zeros(count, bool) if self.difficult is None else np.asarray(self.difficult, bool))
        if self.area is None:
            sides = boxes[:, 2:].astype(np.float64) - boxes[:, :2]
            set_("area", sides[:, 0] * sides[:, 1])
        else:
            set_("area", np.asarray(self.area, np.float64))
        for name in ("labels", "crowd", "difficult", "area", "masks"):
            value = getattr(self, name)
            if value is not None and len(value) != count:
                raise ValueError(f"Target of image {self.image_id}: {len(value)} {name} for {count} boxes")

    def __len__(self) -> int:
        return len(self.boxes)

    def select(self, keep: np.ndarray) -> Target:
        """The objects that `keep` (bool mask or indices) names, in that order; the semantic map stays."""
        chosen = {name: getattr(self, name)[keep] for name in ("boxes", "labels", "crowd", "difficult", "area")}
        masks = None if self.masks is None else self.masks[keep]
        return dataclasses.replace(self, **chosen, masks=masks)


@dataclass(frozen=True)
class Sample:
    """One decoded image, uint8 (H, W, C) (C = 3: RGB), and its Target."""

    image: np.ndarray
    target: Target


class _TensorData:
    """`.to`, `.pin_memory` and pytree registration for the frozen dataclasses of tensors below."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)

        def flatten(value: Any) -> tuple[list, None]:
            return [getattr(value, name) for name in cls.__dataclass_fields__], None

        def unflatten(children: Sequence, _: None) -> Any:
            # not through __init__: pytrees may carry placeholders while torch traces
            value = object.__new__(cls)
            for name, child in zip(cls.__dataclass_fields__, children):
                object.__setattr__(value, name, child)
            return value

        pytree.register_pytree_node(
            cls, flatten, unflatten, serialized_type_name=f"{cls.__module__}.{cls.__qualname__}"
        )

    def _map(self, function: Callable[[Tensor], Tensor]) -> Any:
        return pytree.tree_map(lambda leaf: function(leaf) if isinstance(leaf, Tensor) else leaf, self)

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """The same with every tensor moved as by `Tensor.to` (a device; give no dtype: fields differ in theirs)."""
        return self._map(lambda tensor: tensor.to(*args, **kwargs))

    def pin_memory(self) -> Any:
        return self._map(Tensor.pin_memory)


@dataclass(frozen=True)
class Targets(_TensorData):
    """The targets of a batch, padded to the largest object count G (G >= 1, so shapes are never empty).

    boxes (B, G, 4) float32 · labels (B, G) int64, -1 = padding · valid (B, G) bool · crowd (B, G) bool: crowds and
    `difficult` objects, neither positive nor negative in a loss · masks (M, H, W) bool, the masks of all images one
    after the other without padding, or None · mask_start (B,) int64: object g of image b has mask
    mask_start[b] + g · semantic (B, H, W) int64 with `ClassMap.ignore`, or None; for multi-label models also a mask
    a class (B, C, H, W) of 0, 1 and `ClassMap.ignore`.
    """

    boxes: Tensor
    labels: Tensor
    valid: Tensor
    crowd: Tensor
    masks: Tensor | None = None
    mask_start: Tensor | None = None
    semantic: Tensor | None = None

    @property
    def single(self) -> Tensor:
        """(B, G) bool: the objects to be found, neither padding nor crowds."""
        return self.valid & ~self.crowd

    @property
    def crowds(self) -> Tensor:
        """(B, G) bool: crowds and `difficult` objects, without the padding."""
        return self.valid & self.crowd


@dataclass(frozen=True)
class Geometry(_TensorData):
    """How source pixels became network pixels: network = source * scale + offset.

    scale (B, 2) x, y · offset (B, 2) x, y in pixels · source (B, 2) height, width of the source image.
    """

    scale: Tensor
    offset: Tensor
    source: Tensor


@dataclass(frozen=True)
class Batch(_TensorData):
    """Images uint8 (B, 3, H, W), sizes (B, 2) height and width of the content without batch padding, and targets.

    `image_ids` is a list as in the files. `targets` is None when predicting.
    """

    images: Tensor
    sizes: Tensor
    geometry: Geometry
    targets: Targets | None
    image_ids: list


@dataclass(frozen=True)
class Detections(_TensorData):
    """The objects found in one image, by falling score.

    boxes (N, 4) float32 xyxy · scores (N,) in [0, 1] · labels (N,) int64 · masks (N, H, W) bool or None · track_ids
    (N,) int64 or None.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor | None = None
    track_ids: Tensor | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def select(self, keep: Tensor) -> Detections:
        """The detections that `keep` (bool mask or indices) names, in that order."""
        fields = (getattr(self, field.name) for field in dataclasses.fields(self))
        return Detections(*(None if value is None else value[keep] for value in fields))


@dataclass(frozen=True)
class LabelRule:
    """How the label of a pixel follows from the probabilities of its classes.

    threshold None: the likeliest class. Else the likeliest of the classes from number `first` on, where it exceeds
    `threshold`, and the label `none` elsewhere.
    """

    threshold: float | None = None
    none: int = 255
    first: int = 0

    @property
    def overlapping(self) -> bool:
        """Whether a pixel may have several classes, or none: each is judged by itself, the first too."""
        return self.threshold is not None and self.first == 0

    def decide(self, best: Tensor, label: Tensor) -> Tensor:
        """Labels (..., H, W) int64 where `label` is the likeliest class from `first` on and `best` its probability."""
        return label if self.threshold is None else label.where(best > self.threshold, self.none)

    def labels(self, scores: Tensor) -> Tensor:
        """Labels (..., H, W) int64 of probabilities (..., C, H, W)."""
        if self.threshold is None:
            return scores.max(-3).indices  # a third of the time of argmax on a CPU
        best, label = scores[..., self.first :, :, :].max(-3)
        return self.decide(best, label + self.first)


@dataclass(frozen=True)
class Segmentation(_TensorData):
    """The class of each pixel: labels (H, W) int64, and scores (C, H, W) in [0, 1] where they were asked for.

    `rule` is how the labels follow from the scores, at any resolution.
    """

    labels: Tensor
    scores: Tensor | None = None
    rule: LabelRule = LabelRule()

    @property
    def layers(self) -> Tensor:
        """(C, H, W) bool: where each class by itself is above the threshold, so that they may overlap.

        ValueError without scores, and where the classes of a pixel exclude each other.
        """
        if self.scores is None or not self.rule.overlapping:
            raise ValueError("layers: expected the scores of a multi-label segmentation (predict with scores=True)")
        return self.scores > self.rule.threshold
