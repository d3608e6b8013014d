"""Balanced sampling: counts, membership, determinism, and that every place can be drawn."""

import torch

from vision.ops.sample import sample_balanced


def draw(positive, negative, count=8, fraction=0.25, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return sample_balanced(positive, negative, count, fraction, generator)


def test_counts_membership_and_order():
    kind = torch.arange(40) % 4  # per image: 10 positives, 20 negatives, 10 that are neither
    positive, negative = (kind == 0).repeat(3, 1), ((kind == 1) | (kind == 2)).repeat(3, 1)
    positive[1, 4:] = False  # one positive left
    positive[2], negative[2] = False, torch.arange(40) < 5
    sample = draw(positive, negative)
    assert sample.places.shape == (3, 8)
    assert sample.positive.sum(1).tolist() == [2, 1, 0]  # a quarter of 8, all there are, none
    assert sample.valid.sum(1).tolist() == [8, 8, 5]
    assert not sample.positive[0, 2:].any()  # positives come first
    for b in range(3):
        chosen = sample.places[b][sample.valid[b]]
        assert chosen.unique().numel() == chosen.numel()
        assert positive[b][sample.places[b][sample.positive[b]]].all()
        assert negative[b][sample.places[b][sample.valid[b] & ~sample.positive[b]]].all()


def test_repeats_under_a_generator_and_differs_under_another():
    positive, negative = torch.zeros(1, 100, dtype=torch.bool), torch.ones(1, 100, dtype=torch.bool)
    first, again, other = (draw(positive, negative, seed=seed).places for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_every_place_gets_its_turn():
    positive = torch.arange(6).repeat(1, 1) < 3
    seen = {int(p) for s in range(60) for p in draw(positive, ~positive, count=2, fraction=0.5, seed=s).places[0]}
    assert seen == set(range(6))


def test_fewer_places_than_asked_for():
    none = torch.zeros(2, 3, dtype=torch.bool)
    sample = draw(none, none)
    assert sample.places.shape == (2, 3)
    assert not sample.valid.any()
