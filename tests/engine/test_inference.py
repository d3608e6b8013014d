"""Inference and evaluation of each mode of segmentation, with and without scores, whole and in tiles."""

import numpy as np
import pytest
import torch
from torch import nn

from vision.backbones.base import Backbone
from vision.data.resize import Preprocess
from vision.engine.evaluate import evaluate
from vision.engine.inference import Inference
from vision.models.segmenter import Segmenter
from vision.structures import ClassMap, Target

SIZE = (24, 36)


class Pixels(Backbone):
    """A backbone whose features are the image itself; it counts the images that it has seen."""

    channels, strides, levels = (3,), (1,), (0,)

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(tuple(x.shape[-2:]))
        return [x]


class Linear(nn.Conv2d):
    def forward(self, features):
        return super().forward(features[-1])


def reds(classes, mode="multiclass", preprocess=("keep",)):
    """A Segmenter that sees class k in a pixel by channel k (red, green, blue); binary: label 1 by red."""
    count = 1 if mode == "binary" else classes
    model = Segmenter(classes, Pixels(), Linear(3, count, 1), mode=mode, loss="ce")
    model.mean.fill_(0.5)
    model.std.fill_(0.05)
    with torch.no_grad():
        model.head.weight.copy_(torch.eye(3)[:count, :, None, None])
        model.head.bias.zero_()
    model.preprocess = Preprocess(SIZE, *preprocess)
    return model


def painted(size=SIZE):
    """A left third of red, a middle of green, a right one of black."""
    image = np.zeros((*size, 3), np.uint8)
    third = size[1] // 3
    image[:, :third, 0] = 255
    image[:, third : 2 * third, 1] = 255
    return image


class Painted:
    """Two such images with the maps that each mode is to find."""

    name, split, tasks = "painted", "val", frozenset({"semantic"})

    def __init__(self, classes, thirds):
        self.classes, self.thirds = ClassMap.of(classes), thirds

    def __len__(self):
        return 2

    def image(self, index):
        return painted()

    def target(self, index, semantic=False, **_):
        labels = np.repeat(np.array(self.thirds, np.uint8), SIZE[1] // 3)
        return Target(semantic=np.tile(labels, (SIZE[0], 1)), size=SIZE)


MODES = [
    pytest.param(1, "multiclass", (0, 255, 255), id="one class"),
    pytest.param(1, "binary", (0, 255, 255), id="one class, binary"),
    pytest.param(2, "binary", (1, 0, 0), id="two classes, binary"),
    pytest.param(2, "multilabel", (0, 1, 255), id="multilabel"),
    pytest.param(3, "multiclass", (0, 1, 0), id="three classes"),  # black: all are as likely
]


@pytest.mark.parametrize("scores", [True, False])
@pytest.mark.parametrize(("classes", "mode", "thirds"), MODES)
def test_labels_of_each_mode_are_those_of_decode(classes, mode, thirds, scores):
    inference = Inference(reds(classes, mode), device="cpu", precision="fp32", scores=scores)
    (found,) = inference([painted()])
    assert found.labels[0, :: SIZE[1] // 3].tolist() == list(thirds)
    assert (found.labels == found.labels[:1]).all()
    if scores:
        assert found.scores.shape == (max(classes, 1), *SIZE)
    else:
        assert found.scores is None


@pytest.mark.parametrize(("classes", "mode", "thirds"), MODES)
def test_evaluation_of_each_mode(classes, mode, thirds):
    found = evaluate(reds(classes, mode), Painted(classes, thirds), device="cpu", precision="fp32", progress=False)
    row = found.to_dict()
    assert row["mIoU"] == 1
    assert row["pixel_accuracy"] == 1


def test_labels_do_not_depend_on_whether_scores_are_kept():
    torch.manual_seed(0)
    model = reds(3, preprocess=("stretch",))
    model.head = Linear(3, 7, 1)
    model.classes = ClassMap.of(7)
    image = np.random.default_rng(0).integers(0, 256, (51, 47, 3), np.uint8)
    for options in ({}, {"tta": True}):
        (kept,) = Inference(model, device="cpu", precision="fp32", **options)([image])
        (alone,) = Inference(model, device="cpu", precision="fp32", scores=False, **options)([image])
        assert len(kept.labels.unique()) > 3
        assert torch.equal(kept.labels, alone.labels)
        assert torch.equal(kept.labels, kept.scores.argmax(0))


@pytest.mark.parametrize(("mode", "scale"), [("stretch", None), ("letterbox", 0.5), ("keep", None)])
def test_tiles_see_a_large_image_at_the_scale_of_training(mode, scale):
    model = reds(3, preprocess=(mode, 0, scale))
    inference = Inference(model, device="cpu", precision="fp32", fold=False, tile=32)
    image = painted((120, 150))
    (found,) = inference([image])
    seen = inference.model.backbone.seen
    assert found.labels.shape == (120, 150)
    assert set(seen) == {(32, 32)}
    assert len(seen) == {None: 5 * 6, 0.5: 3 * 3}[scale]  # 120 x 150 or 60 x 75 in steps of at most 24
    assert found.labels[60, 10] == 0 and found.labels[60, 75] == 1


def test_scale_of_training_is_the_median_of_its_images():
    # letterbox of 32 x 64: 0.5, 0.25 and 0.2 for these sizes
    sizes = [(64, 64), (128, 64), (100, 320)]
    preprocess = Preprocess((32, 64)).learnt_from(sizes)
    assert preprocess.scale == pytest.approx(0.25)
    assert preprocess.for_tiles().content_size((400, 800)) == (100, 200)
    assert preprocess.content_size((64, 64)) == (32, 32)
    assert Preprocess.from_dict(preprocess.to_dict()) == preprocess
    assert Preprocess((32, 64), "keep").learnt_from(sizes).scale is None
    with pytest.raises(ValueError, match="above 0"):
        Preprocess((32, 64), scale=0.0)


def test_models_of_other_channel_counts_are_refused_at_once_and_grey_ones_read_colours():
    grey = Segmenter(1, Pixels(), Linear(1, 1, 1), in_channels=1)
    (found,) = Inference(grey, device="cpu")([painted()])
    assert found.labels.shape == SIZE
    with pytest.raises(ValueError, match="5 channels"):
        Inference(Segmenter(2, Pixels(), Linear(5, 2, 1), in_channels=5))


def test_crf_refuses_classes_that_share_pixels():
    with pytest.raises(ValueError, match="crf"):
        Inference(reds(2, "multilabel"), device="cpu", crf=True)([painted()])
