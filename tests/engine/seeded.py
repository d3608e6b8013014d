"""A data set and models whose objects, class maps and answers are drawn from a seed, for the tests of `evaluate`."""

import numpy as np
import torch
from torch.nn.functional import one_hot

from vision.data.resize import Preprocess
from vision.models.base import DenseOutputs, SegmentOutputs, VisionModel
from vision.structures import ClassMap, Detections, Sample, Segmentation, Target

__all__ = ["CLASSES", "SIZE", "Guesser", "Numbered", "Painter", "SurePainter", "painted"]

CLASSES = ClassMap(("ant", "bee", "cat"), ids=(3, 7, 20))
SIZE = (120, 160)


class Numbered:
    """Images that carry their number in their pixels, with objects and a class map drawn from a seed."""

    name, split, tasks, problems = "numbered", "val", frozenset({"detection", "semantic"}), ()
    classes = CLASSES

    def __len__(self):
        return 17

    def image(self, index):
        return np.full((*SIZE, 3), index, np.uint8)

    def image_id(self, index):
        return 100 + index

    def image_path(self, index):
        return f"folder/{index:03d}.jpg"

    def size(self, index):
        return SIZE

    def target(self, index, masks=False, semantic=False):
        rng = np.random.default_rng(index)
        count = index % 5
        corner, side = rng.integers(0, 60, (count, 2)), rng.integers(5, 60, (count, 2))
        classes = rng.integers(0, 3, SIZE).astype(np.uint8)
        classes[:10] = 255
        return Target(
            boxes=np.concatenate([corner, corner + side], 1),
            labels=rng.integers(0, 3, count),
            crowd=rng.random(count) < 0.15,
            semantic=classes if semantic else None,
            image_id=self.image_id(index),
            size=SIZE,
        )

    def sample(self, index, masks=False, semantic=False):
        return Sample(self.image(index), self.target(index, masks, semantic))


class Guesser(VisionModel):
    """Reads the image's number and answers with its objects, shifted, some missed, some invented."""

    def __init__(self):
        super().__init__(CLASSES)
        self.preprocess = Preprocess(SIZE)

    def forward(self, images, targets=None):
        return DenseOutputs(images[:, 0, 0, 0].clone(), images, images, images)

    def decode(self, outputs, sizes, **_):
        found = []
        for number in outputs.logits.tolist():
            rng, target = np.random.default_rng(1000 + number), Numbered().target(number)
            boxes = np.concatenate([target.boxes + rng.normal(0, 2, target.boxes.shape), [[5.5, 5.25, 40, 44.125]]])
            labels, scores = np.append(target.labels, 1), rng.random(len(boxes)).astype(np.float32)
            order = np.argsort(-scores, kind="stable")
            parts = (boxes[order], scores[order], labels[order])
            found.append(Detections(*(torch.from_numpy(part) for part in parts)))
            found[-1] = Detections(found[-1].boxes.float(), found[-1].scores, found[-1].labels)
        return found


class Painter(VisionModel):
    """Reads the image's number and paints its class map, one pixel in four wrong."""

    task = "semantic"
    divisor = 1

    def __init__(self):
        super().__init__(CLASSES)
        self.preprocess = Preprocess(SIZE, "stretch")

    def forward(self, images, targets=None):
        return SegmentOutputs(images, [])

    def decode(self, outputs, sizes, **_):
        return [Segmentation(torch.from_numpy(painted(int(image[0, 0, 0])))) for image in outputs.logits]


class SurePainter(Painter):
    """With class scores too: 1 for what it paints."""

    def decode(self, outputs, sizes, **_):
        found = super().decode(outputs, sizes)
        return [Segmentation(one.labels, one_hot(one.labels, 3).permute(2, 0, 1).float()) for one in found]


def painted(number):
    rng = np.random.default_rng(500 + number)
    truth = Numbered().target(number, semantic=True).semantic.astype(np.int64)
    wrong = (rng.random(SIZE) < 0.25) | (truth == 255)
    return np.where(wrong, rng.integers(0, 3, SIZE), truth)
