import numpy as np
import pytest

from vision.data.shapes import SHAPES, SMALLEST, ShapesDataset


def test_same_seed_gives_the_same_images_and_another_seed_others():
    first, second = ShapesDataset(3, seed=5).sample(1, masks=True), ShapesDataset(9, seed=5).sample(1, masks=True)
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.target.masks, second.target.masks)
    assert not np.array_equal(first.image, ShapesDataset(3, seed=6).image(1))
    assert not np.array_equal(first.image, ShapesDataset(3, seed=5, split="val").image(1))


@pytest.mark.parametrize("size", [(64, 64), (96, 161)])
def test_boxes_masks_and_semantic_map_agree(size):
    data = ShapesDataset(12, size=size, seed=1)
    for index in range(len(data)):
        sample = data.sample(index, masks=True, semantic=True)
        target = sample.target
        assert sample.image.shape == (*size, 3)
        assert target.masks.sum(0).max(initial=0) <= 1  # what is hidden belongs to the object in front
        for box, label, mask in zip(target.boxes.astype(int), target.labels, target.masks):
            assert (target.semantic[mask] == label + 1).all()
            rows, columns = np.nonzero(mask)
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert (target.semantic[~target.masks.any(0)] == 0).all()
        assert target.area.tolist() == [mask.sum() for mask in target.masks]


def test_every_class_every_scale_and_overlap_occur():
    data = ShapesDataset(120, size=(128, 128), seed=2)
    boxes = np.concatenate([data.target(index).boxes for index in range(len(data))])
    sides = (boxes[:, 2:] - boxes[:, :2]).max(1)
    assert sides.min() <= SMALLEST + 2
    assert sides.max() >= 0.4 * 128
    assert (data.label_counts() > 20).all()
    touching = 0
    for index in range(len(data)):
        b = data.target(index).boxes
        overlap = np.minimum(b[:, None, 2:], b[None, :, 2:]) - np.maximum(b[:, None, :2], b[None, :, :2])
        touching += ((overlap > 0).all(-1).sum() - len(b)) // 2
    assert touching > 60


def test_semantic_task_names_the_background():
    assert ShapesDataset(task="semantic").classes.names == ("background", *SHAPES)
    assert ShapesDataset().classes.names == SHAPES


def test_spec():
    data = ShapesDataset.from_spec("shapes:count=35,size=96x128,seed=4", "val")
    assert (len(data), data.size(0), data.seed, data.split) == (7, (96, 128), 4, "val")
    assert len(ShapesDataset.from_spec("shapes:count=35", "train")) == 35
    assert ShapesDataset.from_spec("shapes:size=64").size(0) == (64, 64)


@pytest.mark.parametrize("spec", ["shapes:count=x", "shapes:colour=red", "shapes:size=8", "shapes:count=0"])
def test_bad_spec_is_refused_by_name(spec):
    with pytest.raises(ValueError, match="shapes"):
        ShapesDataset.from_spec(spec)


def test_past_the_end():
    with pytest.raises(IndexError, match="3 images"):
        ShapesDataset(3).sample(3)
