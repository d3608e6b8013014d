import numpy as np
import pytest
import torch
from drawn import draw, random_sample

from vision.data.collate import collate, collate_targets
from vision.data.resize import Placement
from vision.structures import Sample, Target


def whole(sample):
    return sample, Placement.whole(sample.image.shape[:2])


def test_images_of_different_sizes_are_padded():
    samples = [random_sample(0, (20, 30)), random_sample(1, (25, 19), 2)]
    batch = collate([whole(sample) for sample in samples], pad=7)
    assert batch.images.shape == (2, 3, 25, 30)
    assert batch.images.dtype == torch.uint8
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert (batch.images[0, :, 20:] == 7).all()
    assert (batch.images[1, :, :, 19:] == 7).all()
    np.testing.assert_array_equal(batch.images[1, :, :25, :19].permute(1, 2, 0), samples[1].image)
    assert batch.sizes.tolist() == [[20, 30], [25, 19]]
    assert batch.geometry.source.tolist() == [[20, 30], [25, 19]]
    assert batch.geometry.scale.dtype == torch.float32
    semantic = batch.targets.semantic
    assert semantic.dtype == torch.int64
    assert (semantic[0, 20:] == 255).all()
    assert (semantic[1, :, :19] == torch.from_numpy(samples[1].target.semantic)).all()


def test_objects_are_padded_to_a_multiple_of_eight():
    samples = [draw((20, 20), [[i, 0, i + 1, 9] for i in range(count)], [1] * count) for count in (9, 3, 0)]
    targets = collate([whole(sample) for sample in samples]).targets
    assert targets.boxes.shape == (3, 16, 4)
    assert targets.valid.sum(1).tolist() == [9, 3, 0]
    assert (targets.labels == torch.where(targets.valid, 1, -1)).all()
    assert targets.boxes[1, 2].tolist() == [2, 0, 3, 9]
    assert targets.mask_start.tolist() == [0, 9, 12]
    assert targets.masks.shape == (12, 20, 20)
    for b, sample in enumerate(samples):
        for g, mask in enumerate(sample.target.masks):
            np.testing.assert_array_equal(targets.masks[targets.mask_start[b] + g], mask)


def test_a_batch_without_objects():
    empty = Sample(np.zeros((8, 8, 3), np.uint8), Target(size=(8, 8), masks=np.zeros((0, 8, 8), bool)))
    targets = collate([whole(empty)] * 2).targets
    assert targets.boxes.shape == (2, 8, 4)
    assert not targets.valid.any()
    assert targets.masks.shape == (0, 8, 8)
    assert targets.semantic is None


def test_crowds_difficult_and_boxes_without_area():
    target = Target([[0, 0, 4, 4], [1, 1, 3, 3], [2, 2, 2, 5], [0, 0, 1, 1]], [0, 1, 2, 3], [True, False, False, False],
                    [False, True, False, False])  # fmt: skip
    targets = collate_targets([target], (8, 8))
    assert targets.labels[0, :4].tolist() == [0, 1, 3, -1]
    assert targets.crowd[0, :4].tolist() == [True, True, False, False]


def test_many_classes_ignore_is_minus_one():
    sample = Sample(np.zeros((4, 4, 3), np.uint8), Target(size=(4, 4), semantic=np.full((4, 4), 300, np.int32)))
    larger = Sample(np.zeros((4, 6, 3), np.uint8), Target(size=(4, 6), semantic=np.full((4, 6), 255, np.int32)))
    semantic = collate([whole(sample), whole(larger)]).targets.semantic
    assert semantic.unique().tolist() == [-1, 255, 300]


def test_without_targets_and_without_samples():
    assert collate([whole(random_sample(0))], with_targets=False).targets is None
    with pytest.raises(ValueError, match="at least one"):
        collate([])
