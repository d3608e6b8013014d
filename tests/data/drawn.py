"""A small data set of coloured rectangles, whose colour tells their label, with boxes, masks and semantic maps."""

from pathlib import Path

import numpy as np

from vision.structures import ClassMap, Sample, Target

COLOURS = np.array([[250, 20, 20], [20, 240, 30], [30, 30, 255], [255, 255, 0], [0, 255, 255]], np.uint8)
GROUND = np.array([60, 60, 60], np.uint8)  # semantic label: len(COLOURS)


def draw(size, boxes, labels, crowd=None, image_id=0) -> Sample:
    """Rectangles at whole pixels, later ones in front; masks, semantic map and boxes of what stays visible."""
    owner = np.full(size, -1)
    for row, (x0, y0, x1, y1) in enumerate(boxes):
        owner[y0:y1, x0:x1] = row
    visible = [row for row in range(len(boxes)) if (owner == row).any()]
    labels, crowd = np.asarray(labels, int), np.zeros(len(boxes), bool) if crowd is None else np.asarray(crowd)
    masks = np.array([owner == row for row in visible], bool).reshape(-1, *size)
    tight = [[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] for ys, xs in map(np.nonzero, masks)]
    semantic = np.append(labels, len(COLOURS))[owner].astype(np.uint8)
    target = Target(tight, labels[visible], crowd[visible], area=masks.sum((1, 2)), masks=masks, semantic=semantic,
                    image_id=image_id, size=size)  # fmt: skip
    return Sample(np.concatenate([COLOURS, GROUND[None]])[semantic], target)


def random_sample(seed: int, size=(60, 80), count: int = 5, image_id=0) -> Sample:
    random = np.random.default_rng(seed)
    height, width = size
    x0, y0 = random.integers(0, width - 8, count), random.integers(0, height - 8, count)
    x1 = np.minimum(width, x0 + random.integers(8, width // 2, count))
    y1 = np.minimum(height, y0 + random.integers(8, height // 2, count))
    return draw(size, np.stack([x0, y0, x1, y1], 1), random.integers(0, len(COLOURS), count), image_id=image_id)


class DrawnDataset:
    """`count` random samples; sizes and numbers of objects differ, every fifth image has no object."""

    classes = ClassMap(("red", "green", "blue", "yellow", "cyan", "ground"))
    tasks = frozenset({"detection", "instance", "semantic", "panoptic"})
    problems: tuple = ()

    def __init__(self, count: int = 12):
        self.samples = [
            random_sample(i, (50 + i % 3 * 7, 60 + i % 4 * 9), 0 if i % 5 == 4 else 1 + i % 4, f"image{i}")
            for i in range(count)
        ]
        self.decoded = 0

    def __len__(self):
        return len(self.samples)

    def image_path(self, i):
        return Path(f"image{i}.png")

    def size(self, i):
        return self.samples[i].target.size

    def sample(self, i, masks=False, semantic=False):
        self.decoded += 1
        return Sample(self.samples[i].image.copy(), self.target(i, masks, semantic))

    def target(self, i, masks=False, semantic=False):
        target = self.samples[i].target
        return Target(
            target.boxes, target.labels, target.crowd, target.difficult, target.area, target.masks if masks else None,
            target.semantic if semantic else None, target.image_id, target.size,
        )  # fmt: skip

    def image_labels(self, i):
        return np.unique(self.samples[i].target.labels)
