import numpy as np
import pytest

from vision.data.sampler import BatchPlan, class_balanced_weights, generator, multi_scale_sizes, repeat_factors


def draws(**options):
    return list(BatchPlan(**options))


def test_training_batches_are_full_and_shuffled():
    batches = draws(count=10, batch_size=4)
    assert [len(batch) for batch in batches] == [4, 4]  # the last two images wait for another epoch's shuffle
    order = [draw.index for batch in batches for draw in batch]
    assert len(set(order)) == 8
    assert order != sorted(order)
    assert order == [draw.index for batch in draws(count=10, batch_size=4) for draw in batch]
    for other in ({"epoch": 1}, {"seed": 1}):
        assert order != [draw.index for batch in draws(count=10, batch_size=4, **other) for draw in batch]


def test_evaluation_sees_every_image_once_in_order():
    batches = draws(count=10, batch_size=4, train=False)
    assert [[draw.index for draw in batch] for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@pytest.mark.parametrize("world", [2, 3, 4])
@pytest.mark.parametrize("count", [1, 2, 11, 12, 13, 25])
def test_ranks_share_evaluation_without_repetition(count, world):
    plans = [BatchPlan(count, 3, train=False, rank=rank, world=world) for rank in range(world)]
    ranks = [list(plan) for plan in plans]
    assert [len(plan) for plan in plans] == [len(batches) for batches in ranks]
    assert all(batch for batches in ranks for batch in batches)
    assert sorted(draw.index for batches in ranks for batch in batches for draw in batch) == list(range(count))


@pytest.mark.parametrize("world", [2, 4])
def test_global_batches_do_not_depend_on_the_world_size(world):
    alone = draws(count=50, batch_size=8, epoch=3)
    ranks = [draws(count=50, batch_size=8 // world, epoch=3, rank=rank, world=world) for rank in range(world)]
    assert {len(batches) for batches in ranks} == {len(alone)}
    for whole, *parts in zip(alone, *ranks):
        assert [set(part) for part in parts] == [set(whole[rank::world]) for rank in range(world)]


def test_steps_make_an_epoch_of_a_small_set_longer():
    batches = draws(count=5, batch_size=4, steps=10)
    assert [len(batch) for batch in batches] == [4] * 10
    counts = np.bincount([draw.index for batch in batches for draw in batch])
    assert counts.tolist() == [8] * 5  # 40 draws are eight whole shuffles
    positions = [draw.position for batch in batches for draw in batch]
    assert positions == list(range(40))  # so that no two draws of one image are augmented alike
    assert len(draws(count=3, batch_size=8)) == 1  # fewer images than a batch: one full batch all the same


def test_start_continues_where_an_epoch_was_left():
    options = {"count": 40, "batch_size": 4, "epoch": 2, "sizes": ((32, 32), (64, 64))}
    whole, rest = draws(**options), draws(**options, start=6)
    assert rest == whole[6:]
    assert len(BatchPlan(**options, start=6)) == 4


def test_multi_scale_sizes_by_hand():
    # 0.5 .. 1.5 of 320 in steps of 32: 160, 192, ..., 480
    assert multi_scale_sizes((320, 320), 0.5, 1.5) == tuple((side, side) for side in range(160, 481, 32))
    # the shorter side follows, rounded to multiples: 240 * 288 / 320 = 216 -> 224
    assert multi_scale_sizes((240, 320), 0.9, 1.0) == ((224, 288), (256, 320))
    with pytest.raises(ValueError, match="low <= high"):
        multi_scale_sizes((320, 320), 1.5, 0.5)


def test_one_size_a_batch_the_same_on_all_ranks():
    sizes = multi_scale_sizes((320, 320), 0.5, 1.5)
    ranks = [draws(count=400, batch_size=4, rank=rank, world=2, sizes=sizes) for rank in range(2)]
    chosen = [[{draw.size for draw in batch} for batch in batches] for batches in ranks]
    assert chosen[0] == chosen[1]
    assert all(len(of_batch) == 1 for of_batch in chosen[0])
    assert len({tuple(of_batch) for of_batch in chosen[0]}) > 5


def test_repeat_factors_by_hand():
    # class 0 in all 4 images, class 1 in one: share 1 and 1/4; threshold 0.5: sqrt(0.5 / 0.25) = sqrt(2)
    labels = [[0], [0, 0, 1], [0], [0]]
    np.testing.assert_allclose(repeat_factors(labels, 2, 0.5), [1, 2**0.5, 1, 1])
    np.testing.assert_allclose(repeat_factors([[], [0]], 3, 0.5), [1, 1])


def test_repeat_factors_are_met_on_average():
    factors = np.array([1.0, 2.5, 1.0, 3.0, 1.0])
    counts = np.zeros(5)
    for epoch in range(200):
        counts += np.bincount(
            [d.index for b in draws(count=5, batch_size=1, factors=factors, epoch=epoch) for d in b], minlength=5
        )
    np.testing.assert_allclose(counts / 200, factors * 8 / 8.5, rtol=0.1)  # an epoch has round(8.5) = 8 draws


def test_class_balanced_by_hand():
    # class 0 in three images, class 1 in one of them; the fourth is "nothing": 1/3, 1/3, 1/3 + 1, 1, over 3
    weights = class_balanced_weights([[0], [0], [0, 1], []], 2)
    np.testing.assert_allclose(weights, np.array([1 / 3, 1 / 3, 4 / 3, 1]) / 3)
    plan = BatchPlan(4, 4, factors=weights, replace=True, steps=500)
    counts = np.bincount([draw.index for batch in plan for draw in batch], minlength=4)
    np.testing.assert_allclose(counts / 2000, weights, atol=0.03)


def test_generators_are_reproducible_and_independent():
    assert generator(1, 2, 3, 4).random() == generator(1, 2, 3, 4).random()
    values = {generator(*key).random() for key in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 0, 0, 0))}
    assert len(values) >= 4


def test_refusals():
    for options in ({"count": 0, "batch_size": 1}, {"count": 1, "batch_size": 0},
                    {"count": 1, "batch_size": 1, "rank": 1},
                    {"count": 1, "batch_size": 1, "steps": 0}):  # fmt: skip
        with pytest.raises(ValueError, match="BatchPlan"):
            BatchPlan(**options)
