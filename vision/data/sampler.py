"""Which images make up which batch: shuffled, balanced or in order, the same for any number of workers or ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["BatchPlan", "Draw", "class_balanced_weights", "generator", "multi_scale_sizes", "repeat_factors"]

ORDER, SIZE, AUGMENT = 0, 1, 2  # streams of random numbers that share a seed


def generator(seed: int, stream: int, *counters: int) -> np.random.Generator:
    """The random generator of one purpose (`stream`) at one place (`counters`), independent of every other."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, stream, *counters])))


@dataclass(frozen=True)
class Draw:
    """One element of a batch: image `index`, the `position`-th of the epoch over all ranks, at network size `size`.

    (seed, epoch, position) alone decides what augmentation does. `combine` False: no mosaic, mixup, copy-paste.
    """

    index: int
    epoch: int
    position: int
    size: tuple[int, int] | None = None
    combine: bool = True


@dataclass
class BatchPlan:
    """The batches of one epoch after another, as lists of Draws for this rank.

    A global batch is batch_size * world consecutive images of the epoch's order; rank r gets its elements r::world, so
    that every world size with the same global batch sees the same images together.

    train: `steps` batches an epoch (default: as many as the images fill, at least one), every one full; where that is
    more than the images, several independent shuffles follow one another. Otherwise: every image exactly once, in
    order, the last batch short; a rank may get one batch less than another, none is padded with repetitions.
    """

    count: int
    batch_size: int
    train: bool = True
    seed: int = 0
    rank: int = 0
    world: int = 1
    steps: int | None = None
    factors: np.ndarray | None = None  # (count,) how often an image is drawn an epoch, on average; None: once
    replace: bool = False  # draw with replacement, with probability proportional to `factors`
    sizes: Sequence[tuple[int, int]] = ()  # network sizes to choose from for each batch while `combine`
    epoch: int = 0
    start: int = 0  # batches of the epoch to skip: where a resumed run goes on
    combine: bool = True

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError("BatchPlan: the data set has no images; check the path and the split")
        if self.batch_size < 1:
            raise ValueError(f"BatchPlan: batch size {self.batch_size}; expected at least 1")
        if not 0 <= self.rank < self.world:
            raise ValueError(f"BatchPlan: rank {self.rank} of {self.world} processes; expected 0..{self.world - 1}")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"BatchPlan: {self.steps} steps an epoch; expected at least 1")

    @property
    def global_batch(self) -> int:
        return self.batch_size * self.world

    @property
    def batches(self) -> int:
        """Batches of a whole epoch for this rank."""
        if not self.train:
            mine = max(0, -(-(self.count - self.rank) // self.world))  # of positions rank, rank + world, ...
            return -(-mine // self.batch_size)
        drawn = self.count if self.factors is None or self.replace else round(float(self.factors.sum()))
        return self.steps or max(1, drawn // self.global_batch)

    def __len__(self) -> int:
        return max(0, self.batches - self.start)

    def order(self) -> np.ndarray:
        """The images of this epoch over all ranks, in order."""
        if not self.train:
            return np.arange(self.count)
        needed, parts, length = self.batches * self.global_batch, [], 0
        while length < needed:
            parts.append(self._shuffle(generator(self.seed, ORDER, self.epoch, len(parts))))
            length += len(parts[-1])
        return np.concatenate(parts)[:needed]

    def _shuffle(self, random: np.random.Generator) -> np.ndarray:
        if self.factors is None:
            return random.permutation(self.count)
        if self.replace:
            return random.choice(self.count, self.count, p=self.factors / self.factors.sum())
        whole = np.floor(self.factors)
        times = whole + (random.random(self.count) < self.factors - whole)
        return random.permutation(np.repeat(np.arange(self.count), times.astype(np.int64)))

    def __iter__(self) -> Iterator[list[Draw]]:
        order, epoch, combine = self.order(), self.epoch, self.combine
        for batch in range(self.start, self.batches):
            first = batch * self.global_batch
            positions = range(first + self.rank, min(first + self.global_batch, len(order)), self.world)
            size = self._size(batch)
            yield [Draw(int(order[position]), epoch, position, size, combine) for position in positions]

    def _size(self, batch: int) -> tuple[int, int] | None:
        if not self.sizes or not self.combine:  # the end of a run sees images as they will be later
            return None
        return tuple(self.sizes[generator(self.seed, SIZE, self.epoch, batch).integers(len(self.sizes))])


def multi_scale_sizes(
    size: tuple[int, int], low: float, high: float, multiple: int = 32
) -> tuple[tuple[int, int], ...]:
    """Network sizes from low * size to high * size in steps of `multiple` pixels of the longer side, all multiples."""
    if not 0 < low <= high:
        raise ValueError(f"multi_scale: factors {low} to {high}; expected 0 < low <= high")
    longer = max(size)
    first, last = max(1, round(low * longer / multiple)), max(1, round(high * longer / multiple))
    sizes = []
    for step in range(first, last + 1):
        factor = step * multiple / longer
        sizes.append(tuple(max(multiple, round(side * factor / multiple) * multiple) for side in size))
    return tuple(sizes)


def repeat_factors(labels: Sequence[np.ndarray], classes: int, threshold: float = 0.001) -> np.ndarray:
    """How often to draw each image so that rare classes are seen more (LVIS, arXiv:1908.03195, appendix B.2).

    labels: the labels present in each image -> (images,) float64 >= 1: max over the image's classes of
    sqrt(threshold / share of images with that class). An image without objects gets 1.
    """
    share = _images_with(labels, classes) / max(1, len(labels))
    by_class = np.sqrt(np.maximum(1.0, threshold / np.maximum(share, 1e-12)))
    return np.array([by_class[np.asarray(present, np.int64)].max(initial=1.0) for present in labels])


def class_balanced_weights(labels: Sequence[np.ndarray], classes: int) -> np.ndarray:
    """Probability of drawing each image when first a class, then an image that holds it, is chosen at random.

    labels: the labels present in each image -> (images,) float64 that sum to 1. Images without objects count as holding
    one more class, "nothing", so that background is still seen.
    """
    labels = [np.unique(np.asarray(present, np.int64)) for present in labels]
    labels = [present if len(present) else np.array([classes]) for present in labels]
    images = _images_with(labels, classes + 1)
    per_image = np.where(images > 0, 1 / np.maximum(images, 1), 0)
    weights = np.array([per_image[present].sum() for present in labels])
    return weights / weights.sum()


def _images_with(labels: Sequence[np.ndarray], classes: int) -> np.ndarray:
    present = [np.unique(np.asarray(image, np.int64)) for image in labels]
    return np.bincount(np.concatenate([np.zeros(0, np.int64), *present]), minlength=classes)
