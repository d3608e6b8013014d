"""Panoptic quality against an independent loop over segments, and the void and crowd rules by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from vision.metrics import PanopticMap, PanopticQuality, panoptic, panoptic_map
from vision.structures import ClassMap


def reference(cases, classes):
    """panopticapi's rules as plain loops; cases are (predicted ids, labels, truth ids, labels, crowds), dicts by id."""
    iou, hits, alarms, missed = np.zeros((4, classes))
    for guess, guess_labels, fact, fact_labels, crowds in cases:
        matched_guess, matched_fact = set(), set()
        for t, t_label in fact_labels.items():
            for p, p_label in guess_labels.items():
                shared = ((fact == t) & (guess == p)).sum()
                if crowds[t] or t_label != p_label or not shared:
                    continue
                void = ((~np.isin(fact, list(fact_labels))) & (guess == p)).sum()
                value = shared / ((fact == t).sum() + (guess == p).sum() - shared - void)
                if value > 0.5:
                    iou[t_label] += value
                    hits[t_label] += 1
                    matched_guess.add(p)
                    matched_fact.add(t)
        last_crowd = {}
        for t, label in fact_labels.items():
            if t not in matched_fact:
                if crowds[t]:
                    last_crowd[label] = t
                else:
                    missed[label] += 1
        for p, label in guess_labels.items():
            area = (guess == p).sum()
            if p in matched_guess or not area:
                continue
            excused = ((~np.isin(fact, list(fact_labels))) & (guess == p)).sum()
            if label in last_crowd:
                excused += ((fact == last_crowd[label]) & (guess == p)).sum()
            alarms[label] += excused / area <= 0.5
    return np.stack([iou, hits, alarms, missed])


def random_image(rng, classes):
    def side(ids):
        blocks = rng.choice(ids, (5, 6))
        return np.kron(blocks, np.ones((3, 4), int)), {int(i): int(rng.integers(classes)) for i in ids[1:]}

    fact, fact_labels = side(np.array([0, 7, 300, 70000, 2, 9]))
    guess, guess_labels = side(np.array([0, 1, 2, 3, 1000]))
    for p, t in ((1, 7), (2, 300), (3, 9)):  # some segments nearly right
        if rng.random() < 0.8:
            guess[fact == t] = p
            guess_labels[p] = fact_labels[t]
            guess[rng.random(guess.shape) < 0.1] = 0
    return guess, guess_labels, fact, fact_labels, {i: rng.random() < 0.25 for i in fact_labels}


def maps(case, device="cpu"):
    guess, guess_labels, fact, fact_labels, crowds = case
    rows = lambda table: (torch.tensor(list(table)), torch.tensor(list(table.values())))  # noqa: E731
    predicted = PanopticMap(torch.from_numpy(guess).to(device), *rows(guess_labels))
    truth = PanopticMap(torch.from_numpy(fact).to(device), *rows(fact_labels), torch.tensor(list(crowds.values())))
    return predicted, truth


@pytest.mark.parametrize("search", [False, True])
def test_equals_the_loop(search, device, monkeypatch):
    if search:  # as on a GPU
        monkeypatch.setattr(panoptic, "_by_table", panoptic._by_search)
    rng = np.random.default_rng(0)
    cases = [random_image(rng, 3) for _ in range(40)]
    metric = PanopticQuality(3)
    metric.update(*zip(*(maps(case, device) for case in cases)))
    expected = reference(cases, 3)
    np.testing.assert_allclose(metric.compute().sums, expected, atol=1e-12)
    assert (expected > 0).all()  # the cases exercise every count


def quality(guess, guess_labels, fact, fact_labels, crowds=None, classes=2):
    crowds = crowds or dict.fromkeys(fact_labels, False)
    metric = PanopticQuality(classes)
    metric.update(*[[one] for one in maps((np.array([guess]), guess_labels, np.array([fact]), fact_labels, crowds))])
    return metric.compute().to_dict()


def test_by_hand():
    # segment 1: 3 of 4 pixels found, IoU 3/4; one more prediction of 1 pixel is a false alarm: PQ = .75 / 1.5
    figures = quality([5, 5, 5, 6], {5: 0, 6: 0}, [1, 1, 1, 1], {1: 0})
    assert figures["PQ"] == pytest.approx(0.5)
    assert figures["SQ"] == pytest.approx(0.75)
    assert figures["RQ"] == pytest.approx(2 / 3)
    assert figures["per_class"]["class 1"]["PQ"] is None
    assert figures["classes_left_out"] == 1


def test_void_is_taken_off_the_union_and_excuses():
    assert quality([5, 5, 5, 5], {5: 0}, [1, 1, 0, 0], {1: 0})["PQ"] == 1
    figures = quality([5, 5, 6, 6], {5: 0, 6: 1}, [1, 1, 0, 0], {1: 0})
    assert figures["PQ"] == 1  # the second lies in void: no false alarm


def test_crowd_is_never_missed_and_excuses_its_class():
    assert quality([0, 0], {}, [1, 1], {1: 0}, {1: True})["PQ"] is None
    figures = quality([5, 6], {5: 0, 6: 1}, [1, 1], {1: 0}, {1: True})
    assert figures["per_class"]["class 0"]["PQ"] is None
    assert figures["per_class"]["class 1"]["FP"] == 1


def test_half_overlap_is_no_match():
    assert quality([5, 0], {5: 0}, [1, 1], {1: 0})["PQ"] == 0


def test_things_and_stuff():
    metric = PanopticQuality(ClassMap(("car", "sky"), things=(True, False)))
    labels = torch.tensor([[0, 0, 1, 1]])
    truth = panoptic_map(labels, torch.tensor([[1, 2, 0, 0]]))
    metric.update([panoptic_map(labels, torch.tensor([[3, 3, 0, 0]]))], [truth])
    figures = metric.compute().to_dict()
    assert figures["PQ_stuff"] == 1
    assert figures["PQ_things"] == 0  # two cars in one segment: IoU 1/2 with each
    json.dumps(figures, allow_nan=False)
    assert PanopticQuality(1).compute().to_dict()["PQ"] is None


def test_merge_and_bad_shapes():
    rng = np.random.default_rng(1)
    cases = [maps(random_image(rng, 2)) for _ in range(4)]
    whole, left, right = (PanopticQuality(2) for _ in range(3))
    whole.update(*zip(*cases))
    left.update(*zip(*cases[:1]))
    right.update(*zip(*cases[1:]))
    left.merge(right)
    np.testing.assert_allclose(left.compute().sums, whole.compute().sums, atol=1e-12)
    with pytest.raises(ValueError, match=r"PanopticQuality.merge: 2 classes .*; expected the same 1"):
        PanopticQuality(1).merge(PanopticQuality(2))
    with pytest.raises(ValueError, match=r"PanopticQuality.update: labels from 0 to 1; expected 0 to 0"):
        labels = panoptic_map(torch.tensor([[0, 1]]), torch.zeros(1, 2))
        PanopticQuality(1).update([labels], [labels])
    with pytest.raises(ValueError, match=r"PanopticQuality.update: torch.float32 labels; expected integers"):
        whole.update([replace(cases[0][0], labels=cases[0][0].labels + 0.9)], [cases[0][1]])
    with pytest.raises(ValueError, match="1 predicted maps but 0"):
        whole.update([cases[0][0]], [])
    with pytest.raises(ValueError, match="predicted"):
        whole.update([cases[0][0]], [panoptic_map(torch.zeros(2, 2), torch.zeros(2, 2))])
