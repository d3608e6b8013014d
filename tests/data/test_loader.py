import pickle

import numpy as np
import pytest
import torch
from drawn import DrawnDataset
from test_coco import panoptic_folder

from vision.data import open_dataset
from vision.data.cache import SampleCache, affordable_cache
from vision.data.loader import build_loader
from vision.data.resize import Preprocess
from vision.data.transforms import AugmentConfig, build_augmentation

SPEC = AugmentConfig(flip_horizontal=0.5, scale=(0.5, 1.5), brightness=0.3, mosaic=0.5, copy_paste=0.3)


def training_loader(dataset=None, task="instance", **options):
    preprocess = Preprocess(64)
    options = {"batch_size": 4, "steps_per_epoch": 5, **options}
    augmentation = build_augmentation(options.pop("spec", SPEC), preprocess, task)
    return build_loader(
        dataset or DrawnDataset(), preprocess=preprocess, task=task, augmentation=augmentation, **options
    )


def equal(first, second):
    leaves = [torch.utils._pytree.tree_flatten(batch)[0] for batch in (first, second)]
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(*leaves, strict=True))


def same(first, second):
    return all(equal(a, b) for a, b in zip(first, second, strict=True))


def test_workers_change_nothing_and_learn_of_the_epoch():
    alone, helped = training_loader(multi_scale=(0.5, 1.5)), training_loader(multi_scale=(0.5, 1.5), workers=2)
    epochs = {}
    for epoch in (0, 1):
        alone.set_epoch(epoch)
        helped.set_epoch(epoch)
        epochs[epoch] = list(alone)
        assert same(epochs[epoch], list(helped))
    assert not same(epochs[0], epochs[1])


def test_epochs_can_be_repeated_in_any_order():
    loader = training_loader()
    loader.set_epoch(3)
    first = list(loader)
    loader.set_epoch(0)
    list(loader)
    loader.set_epoch(3)
    assert same(first, list(loader))


def test_resume_in_the_middle_of_an_epoch():
    loader = training_loader()
    loader.set_epoch(2)
    whole = list(loader)
    iterator = iter(loader)
    for _ in range(2):
        next(iterator)
    state = loader.state_dict()
    resumed = training_loader()
    resumed.load_state_dict(state)
    assert len(resumed) == 3
    assert same(whole[2:], list(resumed))
    assert resumed.state_dict()["start"] == 5


def test_the_global_generator_is_left_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    list(training_loader())
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("limit", [1 << 20, 30_000])
@pytest.mark.parametrize("task", ["detection", "panoptic", "semantic"])
def test_a_cache_changes_nothing(task, limit):
    spec = AugmentConfig(flip_horizontal=0.5, scale=(0.5, 1.5), mosaic=0.5)
    datasets = DrawnDataset(), DrawnDataset()
    loaders = [
        training_loader(datasets[0], task, spec=spec, cache_bytes=0),
        training_loader(datasets[1], task, spec=spec, cache_bytes=limit),
    ]
    for epoch in range(2):
        for loader in loaders:
            loader.set_epoch(epoch)
        assert same(*loaders)
    assert datasets[1].decoded < datasets[0].decoded / (2 if limit == 1 << 20 else 1)
    if limit == 1 << 20:
        assert datasets[1].decoded == len(datasets[1])


def test_a_cache_is_shared_by_forked_workers_and_survives_pickling():
    dataset = DrawnDataset()
    loader = training_loader(dataset, workers=1, cache_bytes=1 << 20, steps_per_epoch=12)
    list(loader)
    assert dataset.decoded == 0  # all was decoded in the worker, and is here
    cache = loader.source._cache
    np.testing.assert_array_equal(cache.sample(3).image, dataset.samples[3].image)
    assert dataset.decoded == 0
    other = pickle.loads(pickle.dumps(cache))
    np.testing.assert_array_equal(other.sample(3).image, dataset.samples[3].image)


def test_a_cache_refuses_an_image_of_another_size():
    dataset = DrawnDataset()
    cache = SampleCache(dataset, 1 << 20)
    dataset.samples[0], dataset.size = dataset.samples[1], lambda i: (50, 60)
    with pytest.raises(ValueError, match=r"image0\.png.*expected"):
        cache.sample(0)


def test_evaluation_is_in_order_with_the_way_back():
    dataset = DrawnDataset(7)
    batches = list(build_loader(dataset, preprocess=Preprocess(64), batch_size=3, task="panoptic"))
    assert [len(batch.images) for batch in batches] == [3, 3, 1]
    assert [name for batch in batches for name in batch.image_ids] == [f"image{i}" for i in range(7)]
    batch, sample = batches[1], dataset.samples[3]  # the first of the second batch
    count = len(sample.target)
    restored = (batch.targets.boxes[0, :count] - batch.geometry.offset[0].repeat(2)) / batch.geometry.scale[0].repeat(2)
    np.testing.assert_allclose(restored, sample.target.boxes, atol=1e-3)
    assert batch.geometry.source[0].tolist() == list(sample.target.size)


def test_combining_can_be_switched_off_for_an_epoch():
    loader = training_loader(spec=AugmentConfig(mosaic=1.0), task="detection")
    loader.set_epoch(0, combine=False)
    for batch in loader:
        counts = [len(loader.dataset.samples[int(name[5:])].target) for name in batch.image_ids]
        assert batch.targets.valid.sum(1).tolist() == counts  # nothing joined, nothing cropped
    assert loader.state_dict()["combine"] is False
    loader.set_epoch(0)
    joined = sum(int(batch.targets.valid.sum()) for batch in loader)
    loader.set_epoch(0, combine=False)
    assert joined > 1.5 * sum(int(batch.targets.valid.sum()) for batch in loader)


@pytest.mark.parametrize("sampling", ["repeat_factor", "class_balanced"])
def test_sampling_prefers_rare_classes(sampling):
    dataset = DrawnDataset(12)
    dataset.image_labels = lambda i, **_: np.array([1]) if i == 5 else np.array([0])
    loader = training_loader(dataset, sampling=sampling, repeat_threshold=0.5, steps_per_epoch=60)
    names = [draw.index for batch in loader.plan for draw in batch]
    # 1 of 12 images: sqrt(0.5 * 12) = 2.45 times as often; half of all draws when classes are balanced
    expected = {"repeat_factor": 240 * 2.45 / 13.45, "class_balanced": 120}[sampling]
    assert names.count(5) == pytest.approx(expected, rel=0.25)


def test_stuff_counts_where_pixels_are_learnt(tmp_path):
    dataset = open_dataset(panoptic_folder(tmp_path), task="panoptic")
    stuff = [label for label, thing in enumerate(dataset.classes.things) if not thing]
    assert not set(stuff) & set(dataset.image_labels(0))
    assert set(stuff) & set(dataset.image_labels(0, semantic=True))
    asked = []
    dataset.image_labels = lambda index, *, semantic: asked.append(semantic) or np.array([0])
    for task in ("semantic", "panoptic", "instance"):
        build_loader(
            dataset, preprocess=Preprocess(64), batch_size=1, task=task, train=True, sampling="repeat_factor",
            cache_bytes=0,
        )  # fmt: skip
    assert asked == [True] * 2 * len(dataset) + [False] * len(dataset)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_image_is_named_without_a_workers_traceback(workers):
    class Broken(DrawnDataset):
        def sample(self, i, masks=False, semantic=False):
            if i == 4:
                raise ValueError("image4.png: truncated image")
            return super().sample(i, masks, semantic)

    with pytest.raises(ValueError, match=r"^image4\.png: truncated image$"):
        list(build_loader(Broken(), preprocess=Preprocess(32), batch_size=2, workers=workers))


def test_small_sets_are_cached_by_themselves():
    dataset = DrawnDataset()
    loader = training_loader(dataset, steps_per_epoch=20)
    list(loader)
    assert dataset.decoded == len(dataset)
    dataset.size = lambda i: (20_000, 20_000)
    assert affordable_cache(dataset) == 0


def test_refusals():
    with pytest.raises(ValueError, match="sampling 'fair'"):
        training_loader(sampling="fair")
    with pytest.raises(ValueError, match="-1 workers"):
        training_loader(workers=-1)
    with pytest.raises(ValueError, match="5 batches"):
        training_loader().set_epoch(0, start=6)


def test_real_cells_load_and_stay_inside(real_data):
    from vision.data import open_dataset

    dataset = open_dataset(real_data("bccd"))
    preprocess = Preprocess(160)
    augmentation = build_augmentation(AugmentConfig(mosaic=0.5, scale=(0.5, 1.5)), preprocess)
    batch = next(iter(build_loader(dataset, preprocess=preprocess, batch_size=8, augmentation=augmentation)))
    boxes = batch.targets.boxes[batch.targets.valid]
    assert len(boxes) > 20
    assert (boxes >= 0).all()
    assert (boxes <= 160).all()
    assert ((boxes[:, 2:] - boxes[:, :2]) >= 1).all()
