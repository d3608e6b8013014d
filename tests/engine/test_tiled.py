"""Tiles and test-time augmentation against the model on the whole image."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vision.backbones.base import Backbone
from vision.engine.tiled import gaussian_window, predict_tiled, tile_starts
from vision.engine.tta import predict_augmented, probabilities
from vision.models.segmenter import Segmenter


class Pixels(Backbone):
    """A backbone whose features are the image itself: the class of a pixel depends on that pixel alone."""

    channels, strides, levels = (3,), (1,), (0,)

    def forward(self, x):
        return [x]


class Pointwise(nn.Conv2d):
    def forward(self, features):
        return super().forward(features[-1])


def pointwise(classes=4, **options):
    torch.manual_seed(0)
    channels = 1 if options.get("mode") == "binary" else classes
    return Segmenter(classes, Pixels(), Pointwise(3, channels, 1), loss="cross_entropy", **options).eval()


def test_tiles_cover_a_side_and_overlap_as_asked():
    assert tile_starts(100, 128, 0.5) == [0]
    assert tile_starts(128, 128, 0.5) == [0]
    assert tile_starts(256, 128, 0.5) == [0, 64, 128]  # 64 px of 128 shared by neighbours
    starts = tile_starts(301, 64, 0.25)
    assert starts[0] == 0
    assert starts[-1] == 301 - 64
    assert all(b - a <= 48 for a, b in itertools.pairwise(starts))  # 64 * (1 - 0.25)


def test_window_is_highest_in_the_middle_and_never_zero():
    window = gaussian_window(9, 17)
    assert window.shape == (9, 17)
    assert window[4, 8] == 1
    assert window.min() > 0
    assert torch.equal(window, window.flip(0, 1))


@pytest.mark.parametrize("mode", ["multiclass", "multilabel", "binary"])
def test_tiles_of_a_pointwise_model_give_the_whole_image(mode):
    model = pointwise(2 if mode == "binary" else 4, mode=mode)
    images = torch.randint(0, 256, (2, 3, 45, 70), dtype=torch.uint8)
    with torch.no_grad():
        whole = probabilities(model, model(images).logits)
        tiled = predict_tiled(model, images, 32, 0.5)
        augmented = predict_tiled(model, images, 32, 0.5, tta=True)
    torch.testing.assert_close(probabilities(model, tiled.logits), whole, atol=1e-5, rtol=1e-4)
    assert augmented.logits.shape == whole.shape
    assert model.decode(tiled)[1].labels.shape == (45, 70)


def test_image_smaller_than_the_tile_is_seen_once():
    model = pointwise()
    images = torch.rand(1, 3, 20, 30)
    with torch.no_grad():
        expected = model(images).logits.softmax(1)
        torch.testing.assert_close(predict_tiled(model, images, 64).logits.softmax(1), expected, atol=1e-5, rtol=1e-4)


def test_augmentation_averages_probabilities():
    model = pointwise()
    images = torch.rand(1, 3, 16, 24)
    with torch.no_grad():
        expected = model(images).logits.softmax(1)
        # a pointwise model does not care for mirroring: at scale 1 the mean of both is the plain prediction
        same = predict_augmented(model, images, (1.0,)).logits.softmax(1)
        torch.testing.assert_close(same, expected, atol=1e-5, rtol=1e-4)
        double = F.interpolate(images, scale_factor=2.0, mode="bilinear")
        back = F.interpolate(model(double).logits.softmax(1), size=(16, 24), mode="bilinear")
        mean = predict_augmented(model, images, (1.0, 2.0), flip=False).logits.softmax(1)
        torch.testing.assert_close(mean, (expected + back) / 2, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("call", [lambda m, x: predict_tiled(m, x, 0), lambda m, x: predict_tiled(m, x, 8, 1.0)])
def test_tile_out_of_range_is_refused(call):
    with pytest.raises(ValueError, match="predict_tiled"):
        call(pointwise(), torch.rand(1, 3, 8, 8))


def test_scales_out_of_range_are_refused():
    with pytest.raises(ValueError, match="scales"):
        predict_augmented(pointwise(), torch.rand(1, 3, 8, 8), ())
