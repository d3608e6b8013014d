"""Augmentation of training samples: what is drawn at random for each, and in which order it is done.

Cropping, scaling, flips and colour are done here with OpenCV, one pass each; albumentations, imported by this file
alone and only when it is used, does the rest (blur, noise, and any other of its transforms by name).
"""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vision.data.augment_config import AugmentConfig, default_augmentation
from vision.data.colour import apply_colour, colour_matrix
from vision.data.copy_paste import copy_paste
from vision.data.cutout import cutout
from vision.data.mosaic import mixup, mosaic, random_window
from vision.data.orientation import flip, quarter_turns, rotate
from vision.data.placement import Visibility, Window, box_areas, compose, refit
from vision.data.resize import Preprocess
from vision.structures import Sample, Target

__all__ = ["AugmentConfig", "Augmentation", "build_augmentation", "default_augmentation"]

# our names of albumentations' transforms that change nothing but the image, and their options
_NAMED = {
    "blur": ("GaussianBlur", {"blur_limit": (3, 5), "p": 1.0}),
    "noise": ("GaussNoise", {"std_range": (0.01, 0.04), "p": 1.0}),
    "grey": ("ToGray", {"p": 1.0}),
}
TASKS = ("detection", "instance", "semantic", "panoptic", "multilabel")
Another = Callable[[np.random.Generator], Sample]


def build_augmentation(spec: AugmentConfig, preprocess: Preprocess, task: str = "detection") -> Augmentation:
    """The augmentation that `spec` describes, ending at the size and in the pixels that `preprocess` makes.

    task: detection, instance, semantic, panoptic, or multilabel: instance masks that become one mask a class, so that
    no visible pixel of an object may be left out. ValueError when `spec` asks what the task cannot have: copy-paste
    without masks, mixup of semantic maps.
    """
    if task not in TASKS:
        raise ValueError(f"build_augmentation: task {task!r}; expected one of {', '.join(TASKS)}")
    if spec.copy_paste and task not in ("instance", "panoptic", "multilabel"):
        raise ValueError(f"build_augmentation: copy_paste needs instance masks, which {task} data lack; set it to 0")
    if spec.mixup and task in ("semantic", "panoptic", "multilabel"):
        raise ValueError(f"build_augmentation: mixup has no meaning for the pixel labels of {task} data; set it to 0")
    if task == "multilabel":
        spec = dataclasses.replace(spec, min_visible=0.0, min_side=0.0)
    return Augmentation(spec, preprocess)


class Augmentation:
    """sample, generator -> augmented sample of the network's size. Holds no state: the generator decides everything."""

    def __init__(self, spec: AugmentConfig, preprocess: Preprocess):
        self.spec, self.preprocess = spec, preprocess
        self.rule = Visibility(spec.min_visible, spec.min_side)
        transforms = [{"name": name, **options} for field, (name, options) in _NAMED.items() if getattr(spec, field)]
        self._pipelines = {transform["name"]: _Albumentations([transform], self.rule) for transform in transforms}
        if spec.extra:
            self._pipelines["extra"] = _Albumentations(spec.extra, self.rule)

    def __call__(
        self,
        sample: Sample,
        random: np.random.Generator,
        another: Another | None = None,
        *,
        size: tuple[int, int] | None = None,
    ) -> Sample:
        """The augmented sample. `another(generator)` draws one more image of the data set for mosaic, mixup and
        copy-paste, which are left out without it. `size`: another network size than the preprocessing's."""
        spec = self.spec
        size = self.preprocess.size if size is None else size
        result = self._layout(sample, random, another, size)
        if another is not None and spec.mixup and random.random() < spec.mixup:
            second = self._layout(another(random), random, another, size)
            result = mixup(result, second, float(random.beta(8.0, 8.0)))
        if another is not None and spec.copy_paste and random.random() < spec.copy_paste:
            second = self._layout(another(random), random, None, size)
            result = copy_paste(result, second, random, rule=self.rule)
        return self._appearance(self._orientation(result, random), random)

    def _layout(
        self, sample: Sample, random: np.random.Generator, another: Another | None, size: tuple[int, int]
    ) -> Sample:
        """One crop, or four as a mosaic, on a canvas of `size`."""
        pad, rule = self.preprocess.pad, self.rule
        if another is None or not self.spec.mosaic or random.random() >= self.spec.mosaic:
            sample = self._turned(sample, random)
            window = self._window(sample.target, sample.image.shape[:2], random, size)
            return compose([(sample, window)], size, pad=pad, rule=rule)
        samples = [self._turned(each, random) for each in (sample, *(another(random) for _ in range(3)))]
        scales = [self._scale(each.image.shape[:2], random, size) for each in samples]
        return mosaic(samples, size, scales, random, pad=pad, rule=rule)

    def _scale(
        self, source: tuple[int, int], random: np.random.Generator, size: tuple[int, int]
    ) -> tuple[float, float]:
        """Factors y, x: those of preprocessing, jittered."""
        low, high = self.spec.scale
        factor = random.uniform(low, high) if low < high else low
        stretch = self.spec.aspect ** (random.uniform(-0.5, 0.5) if self.spec.aspect > 1 else 0.0)
        y, x = self.preprocess.fit(source, size)
        return y * factor / stretch, x * factor * stretch

    def _window(
        self, target: Target, source: tuple[int, int], random: np.random.Generator, size: tuple[int, int]
    ) -> Window:
        """A random crop; where it would show no object of an image that has some, another around the middle of one."""
        region, scale = (0, 0, size[1], size[0]), self._scale(source, random, size)
        window = random_window(source, region, scale, random)
        x0, y0, x1, y1 = window.source
        if not self.spec.keep_objects or not len(target) or (x1 - x0, y1 - y0) == source[::-1]:
            return window
        clipped = target.boxes.clip([x0, y0, x0, y0], [x1, y1, x1, y1])
        seen = box_areas(clipped) / np.maximum(box_areas(target.boxes), 1e-12)
        if self.rule.keeps(clipped * np.array(window.scale * 2), seen, target.crowd).any():
            return window
        left, top, right, bottom = target.boxes[random.integers(len(target))]
        return random_window(source, region, scale, random, ((top + bottom) / 2, (left + right) / 2))

    def _turned(self, sample: Sample, random: np.random.Generator) -> Sample:
        if not self.spec.quarter_turns or random.random() >= self.spec.quarter_turns:
            return sample
        return quarter_turns(sample, int(random.integers(1, 4)))

    def _orientation(self, sample: Sample, random: np.random.Generator) -> Sample:
        spec = self.spec
        horizontal = bool(spec.flip_horizontal) and random.random() < spec.flip_horizontal
        vertical = bool(spec.flip_vertical) and random.random() < spec.flip_vertical
        sample = flip(sample, horizontal, vertical)
        if spec.rotate:
            sample = rotate(sample, random.uniform(-spec.rotate, spec.rotate), self.preprocess.pad, self.rule)
        return sample

    def _appearance(self, sample: Sample, random: np.random.Generator) -> Sample:
        spec = self.spec
        draws = {name: 1 + getattr(spec, name) * random.uniform(-1, 1)
                 for name in ("brightness", "contrast", "saturation") if getattr(spec, name)}  # fmt: skip
        if spec.hue:
            draws["hue"] = spec.hue * random.uniform(-1, 1)
        image = sample.image
        if draws:
            # every eighth pixel of every eighth row tells the mean well enough
            matrix = colour_matrix(image[::8, ::8].mean((0, 1)), **draws)
            image = apply_colour(image, matrix)
        for field, (name, _) in _NAMED.items():
            if getattr(spec, field) and random.random() < getattr(spec, field):
                image = self._pipelines[name].image(image, random)
        sample = Sample(image, sample.target)
        if spec.cutout and random.random() < spec.cutout:
            shape = {"holes": spec.cutout_holes, "largest": spec.cutout_size}
            sample = cutout(sample, random, **shape, fill=self.preprocess.pad, rule=self.rule)
        return self._pipelines["extra"].sample(sample, random) if spec.extra else sample


class _Albumentations:
    """Transforms of albumentations by name, seeded from our generator at each call."""

    def __init__(self, transforms: Sequence[dict[str, Any]], rule: Visibility):
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else its import asks the network for a newer version
        import albumentations

        self.rule, built = rule, []
        for options in transforms:
            options = dict(options)
            name = options.pop("name")
            kind = getattr(albumentations, name, None)
            if not (isinstance(kind, type) and issubclass(kind, albumentations.BasicTransform)):
                raise ValueError(f"AugmentConfig: extra transform {name!r} is not a transform of albumentations")
            built.append(kind(**options))
        boxes = {"format": "pascal_voc", "label_fields": ["rows"], "clip": True}
        limits = {"min_visibility": rule.fraction, "min_width": rule.side, "min_height": rule.side}
        self._on_images = albumentations.Compose(built)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # it warns that boxes are given to transforms of colour
            self._on_samples = albumentations.Compose(built, bbox_params=albumentations.BboxParams(**boxes, **limits))
            self._on_crowds = albumentations.Compose(built, bbox_params=albumentations.BboxParams(**boxes))

    def image(self, image: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """The transformed image, for transforms of colour alone."""
        self._on_images.set_random_seed(int(random.integers(2**32)))
        return self._on_images(image=image)["image"]

    def sample(self, sample: Sample, random: np.random.Generator) -> Sample:
        """The transformed sample; boxes of objects with masks are those of the transformed masks."""
        target, given = sample.target, {}
        keep = (target.boxes[:, 2:] > target.boxes[:, :2]).all(1)
        target = target if keep.all() else target.select(keep)
        if target.masks is not None and len(target):
            given["masks"] = target.masks.astype(np.uint8)
        if target.semantic is not None:
            # one up, so that "ignore" (255 in bytes, else -1) becomes the 0 that fills what comes from outside
            given["mask"] = target.semantic + target.semantic.dtype.type(1)
        given |= {"image": sample.image, "bboxes": target.boxes, "rows": np.arange(len(target))}
        seed = int(random.integers(2**32))
        self._on_samples.set_random_seed(seed)
        done = self._on_samples(**given)
        lost = np.setdiff1d(np.flatnonzero(target.crowd), np.asarray(done["rows"], np.int64))
        if len(lost):  # a crowd stays a crowd however little of it is seen
            self._on_crowds.set_random_seed(seed)
            again = self._on_crowds(**given)
            found = [place for place, row in enumerate(again["rows"]) if row in lost]
            for key in ("rows", "bboxes"):
                done[key] = [*done[key], *(again[key][place] for place in found)]
        if done["image"].shape != sample.image.shape:
            raise ValueError(
                f"AugmentConfig: an extra transform made {done['image'].shape} of {sample.image.shape}; "
                "only transforms that keep the size can be used"
            )
        rows = np.asarray(done["rows"], np.int64)
        return Sample(done["image"], self._target(target.select(rows), target.area[rows], rows, done))

    def _target(self, target: Target, area: np.ndarray, rows: np.ndarray, done: dict[str, Any]) -> Target:
        boxes = np.asarray(done["bboxes"], np.float32).reshape(-1, 4)
        before = (target.boxes[:, 2:] - target.boxes[:, :2]).prod(1)
        after = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        changed = (boxes != target.boxes).any(1)
        target = dataclasses.replace(target, boxes=boxes, area=np.where(changed, area * after / before, area))
        if target.semantic is not None:
            target = dataclasses.replace(target, semantic=done["mask"] - target.semantic.dtype.type(1))
        if target.masks is not None and len(target):
            masks = np.asarray(done["masks"])[rows].astype(bool)
            target = refit(dataclasses.replace(target, masks=masks), np.ones(len(target), bool), self.rule)
        return target
