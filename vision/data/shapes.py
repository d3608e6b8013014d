"""`shapes`, the embedded data set: images drawn from a seed, with boxes, instance masks and semantic masks.

Made so that a bad model scores badly: objects from 8 pixels to half the image, rotated, overlapping and occluding
one another, filled with stripes, checks, noise or gradients in colours that say nothing of the class, on a background
of gradients, texture and stray lines, under noise and blur. Nothing is read from or written to disk.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from vision.structures import ClassMap, Sample, Target

__all__ = ["SHAPES", "ShapesDataset"]

SHAPES = ("disc", "square", "triangle", "cross", "ring")
SMALLEST = 8  # pixels, the longer side of the smallest object
MOST_HIDDEN = 0.6  # share of an object that later objects may cover
SPLITS = {"train": 0, "val": 1, "test": 2}
DEFAULT_COUNTS = {"train": 1000, "val": 200, "test": 200}
KEPT_BYTES = 1 << 28  # of drawn images that a data set keeps, as drawing one takes longer than augmenting it


def _polygon(kind: str, rng: np.random.Generator) -> list[np.ndarray]:
    """Contours of a shape within the unit disc, randomly rotated; a second contour is a hole."""
    angle = rng.uniform(0, 2 * np.pi)
    circle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    if kind == "disc":
        stretch = rng.uniform(0.75, 1.0)
        contours = [np.stack([np.cos(circle), stretch * np.sin(circle)], 1)]
    elif kind == "ring":
        outer = np.stack([np.cos(circle), np.sin(circle)], 1)
        contours = [outer, outer * rng.uniform(0.45, 0.6)]
    elif kind == "square":
        stretch = rng.uniform(0.6, 1.0)
        contours = [np.array([[-0.75, -0.75], [0.75, -0.75], [0.75, 0.75], [-0.75, 0.75]]) * (1, stretch)]
    elif kind == "triangle":
        corners = np.deg2rad([90, 210, 330]) + rng.uniform(-0.25, 0.25, 3)
        contours = [np.stack([np.cos(corners), np.sin(corners)], 1)]
    else:
        arm = rng.uniform(0.22, 0.34)
        quarter = np.array([[arm, 1], [arm, arm], [1, arm]])
        turn = np.array([[0, 1], [-1, 0]])  # a quarter turn of row vectors
        contours = [np.concatenate([quarter @ np.linalg.matrix_power(turn, -k) for k in range(4)])]
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return [contour @ rotation for contour in contours]


def _texture(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A uint8 (h, w, 3) patch in two random colours: plain, stripes, checks, noise or a gradient."""
    height, width = shape
    first, second = rng.uniform(20, 235, (2, 3)).astype(np.float32)
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    angle, period = rng.uniform(0, np.pi), rng.uniform(4, 14)
    along = columns * np.cos(angle) + rows * np.sin(angle)
    kind = rng.integers(5)
    if kind == 0:
        mix = np.zeros(shape, np.float32)
    elif kind == 1:
        mix = (np.sin(along * (2 * np.pi / period)) > 0).astype(np.float32)
    elif kind == 2:
        mix = ((rows // (period / 2) + columns // (period / 2)) % 2).astype(np.float32)
    elif kind == 3:
        mix = rng.random(shape, np.float32)
    else:
        mix = (along - along.min()) / max(float(np.ptp(along)), 1.0)
    return (first + (second - first) * (0.6 * mix)[..., None]).astype(np.uint8)


def _background(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A uint8 (H, W, 3) image of low contrast: coarse colour blobs, a texture and stray lines."""
    height, width = size
    blobs = cv2.resize(
        rng.uniform(40, 215, (3, 3, 3)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC
    )
    image = np.clip(0.75 * blobs + 0.25 * _texture(size, rng), 0, 255).astype(np.uint8)
    for _ in range(rng.integers(2, 7)):
        ends = rng.integers(0, (width, height), (2, 2))
        colour = rng.integers(30, 226, 3).tolist()
        cv2.line(image, ends[0].tolist(), ends[1].tolist(), colour, int(rng.integers(1, 3)), cv2.LINE_AA)
    return image


class ShapesDataset:
    """`count` generated images of `size` (height, width); the same seed, split and index give the same image.

    As a semantic data set (task="semantic") the classes are "background" and the shapes, otherwise the shapes alone.
    """

    name = "shapes"
    tasks = frozenset({"detection", "instance", "semantic"})
    problems: tuple = ()

    def __init__(
        self,
        count: int | None = None,
        size: tuple[int, int] = (160, 160),
        seed: int = 0,
        split: str = "train",
        task: str | None = None,
    ):
        if split not in SPLITS:
            raise ValueError(f"shapes has no split {split!r}; choose one of: {', '.join(SPLITS)}")
        if min(size) < 4 * SMALLEST:
            raise ValueError(f"shapes: size {size[0]}x{size[1]} is too small; at least {4 * SMALLEST} pixels a side")
        self.count = DEFAULT_COUNTS[split] if count is None else count
        if self.count < 1:
            raise ValueError(f"shapes: count {self.count}; at least one image is needed")
        self._size, self.seed, self.split, self.task = (int(size[0]), int(size[1])), seed, split, task
        self._drawn: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        self.classes = ClassMap(("background", *SHAPES) if task == "semantic" else SHAPES)

    @classmethod
    def from_spec(cls, spec: str, split: str = "train", task: str | None = None) -> ShapesDataset:
        """From "shapes" or "shapes:count=200,size=128,seed=3" (size: one side, or 96x160 as height x width).

        `count` is the number of training images; the other splits have a fifth of it.
        """
        options: dict = {}
        for part in filter(None, spec.partition(":")[2].split(",")):
            key, _, value = part.partition("=")
            try:
                if key == "size":
                    sides = [int(side) for side in value.split("x")]
                    options["size"] = (sides[0], sides[-1])
                elif key in ("count", "seed"):
                    options[key] = int(value)
                else:
                    raise ValueError
            except ValueError:
                raise ValueError(
                    f"{spec!r}: {part!r} is not understood; write count=N, size=N or size=HxW, seed=N"
                ) from None
        if "count" in options and split != "train":
            options["count"] = max(1, options["count"] // 5) if options["count"] > 0 else 0
        return cls(split=split, task=task, **options)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        """The sample with the masks of the task. IndexError past the end."""
        semantic = self.task == "semantic"
        return self.sample(range(self.count)[index], masks=self.task in (None, "instance"), semantic=semantic)

    def image_path(self, index: int) -> Path:
        """A name for messages and result files; there is no such file."""
        return Path(f"shapes_{self.split}_{self.seed}_{index:05d}.png")

    def image_id(self, index: int) -> int:
        return index

    def size(self, index: int) -> tuple[int, int]:
        return self._size

    def image(self, index: int) -> np.ndarray:
        return self.sample(index).image

    def target(self, index: int, masks: bool = False, semantic: bool = False) -> Target:
        return self.sample(index, masks=masks, semantic=semantic).target

    def image_labels(self, index: int) -> np.ndarray:
        return np.unique(self._labels(index))

    def label_counts(self) -> np.ndarray:
        """Objects of each class; as a semantic data set, pixels of each class."""
        if self.task == "semantic":
            maps = (self.target(index, semantic=True).semantic for index in range(len(self)))
            return sum(np.bincount(semantic.ravel(), minlength=len(self.classes)) for semantic in maps)
        labels = [self._labels(index) for index in range(len(self))]
        return np.bincount(np.concatenate(labels), minlength=len(self.classes))

    def _labels(self, index: int) -> np.ndarray:
        target = self.target(index, semantic=self.task == "semantic")
        return np.unique(target.semantic).astype(np.int64) if self.task == "semantic" else target.labels

    def sample(self, index: int, masks: bool = False, semantic: bool = False) -> Sample:
        """Image uint8 (H, W, 3) and Target; boxes enclose what is visible. IndexError past the end."""
        if not 0 <= index < self.count:
            raise IndexError(f"shapes has {self.count} images; {index} was asked for")
        image, order, labels = self._draw(index)
        visible = order[None] == np.arange(1, len(labels) + 1)[:, None, None]  # (N, H, W)
        boxes = [_tight_box(mask) for mask in visible]
        target = Target(
            boxes=np.array(boxes, np.float32).reshape(-1, 4),
            labels=labels,
            area=visible.sum((1, 2)),
            masks=visible if masks else None,
            semantic=np.concatenate([[0], labels + 1]).astype(np.uint8)[order] if semantic else None,
            image_id=index,
            size=self._size,
        )
        return Sample(image.copy(), target)

    def _draw(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if index in self._drawn:
            return self._drawn[index]
        drawn = _draw(self._size, self.seed, SPLITS[self.split], index)
        if (len(self._drawn) + 1) * (drawn[0].nbytes + drawn[1].nbytes) <= KEPT_BYTES:
            self._drawn[index] = drawn
        return drawn


def _tight_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


def _place(kind: str, size: tuple[int, int], order: np.ndarray, areas: list[int], rng: np.random.Generator):
    """The mask of a new object, or None when it would leave the image too far or hide another one too much."""
    height, width = size
    radius = 0.5 * np.exp(rng.uniform(np.log(SMALLEST), np.log(min(size) / 2)))
    centre = rng.uniform((radius * 0.7,) * 2, (width - radius * 0.7, height - radius * 0.7))
    mask = np.zeros(size, np.uint8)
    contours = [np.round((centre + radius * contour - 0.5) * 16).astype(np.int32) for contour in _polygon(kind, rng)]
    cv2.fillPoly(mask, contours, 1, cv2.LINE_8, shift=4)
    inside = mask.astype(bool)
    if inside.sum() < SMALLEST:
        return None
    left = np.bincount(order[~inside], minlength=len(areas) + 1)[1:]
    if any(remaining < (1 - MOST_HIDDEN) * area or remaining < SMALLEST for remaining, area in zip(left, areas)):
        return None
    return inside


def _draw(size: tuple[int, int], seed: int, split: int, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image uint8 (H, W, 3), the number of the topmost object of each pixel (H, W; 0 = none), labels (N,)."""
    rng = np.random.default_rng([seed, split, index])
    image = _background(size, rng)
    order, labels, areas = np.zeros(size, np.uint8), [], []
    for _ in range(rng.integers(1, 9)):
        label = int(rng.integers(len(SHAPES)))
        inside = next(
            filter(lambda mask: mask is not None, (_place(SHAPES[label], size, order, areas, rng) for _ in range(5))),
            None,
        )
        if inside is None:
            continue
        labels.append(label)
        areas.append(int(inside.sum()))
        order[inside] = len(labels)
        image[inside] = _shaded(image, inside, rng)
    noisy = image + rng.normal(0, rng.uniform(2, 10), image.shape)
    if rng.random() < 0.3:
        noisy = cv2.GaussianBlur(noisy, (3, 3), 0.7)
    return np.clip(noisy, 0, 255).astype(np.uint8), order, np.array(labels, np.int64)


def _shaded(image: np.ndarray, inside: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """New pixel values (M, 3) of an object, a texture kept at some distance from the colour it lies on."""
    left, top, right, bottom = _tight_box(inside)
    part = inside[top:bottom, left:right]
    behind = image[inside].astype(np.float32).mean(0)
    for _ in range(8):
        fill = _texture(part.shape, rng)[part]
        if np.abs(fill.astype(np.float32).mean(0) - behind).max() > 35:
            break
    return fill
