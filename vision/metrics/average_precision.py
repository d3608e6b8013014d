"""Precision, recall and score arrays of the COCO protocol from flat detections and ground truths."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vision.metrics.matching import Matches, match
from vision.metrics.overlap import Found, Pairs, Truth, box_overlap, candidate_pairs, mask_overlap

__all__ = ["AREA_RANGES", "IOU_THRESHOLDS", "RECALL_THRESHOLDS", "Protocol", "evaluate_detections"]

# as the reference computes them: a float32 linspace, or arange, differs in the last bits and moves AP by up to 5e-4
IOU_THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).tolist())
RECALL_THRESHOLDS = tuple(np.linspace(0.0, 1.0, 101).tolist())
AREA_RANGES = {"all": (0.0, 1e10), "small": (0.0, 1024.0), "medium": (1024.0, 9216.0), "large": (9216.0, 1e10)}


@dataclass(frozen=True)
class Protocol:
    """What is evaluated: IoU thresholds, recall points, ranges of area (closed at both ends), detections per image
    and class (rising), number of classes and images, boxes ("bbox") or masks ("segm")."""

    classes: int
    images: int
    kind: str = "bbox"
    ious: tuple[float, ...] = IOU_THRESHOLDS
    recalls: tuple[float, ...] = RECALL_THRESHOLDS
    areas: tuple[tuple[float, float], ...] = tuple(AREA_RANGES.values())
    max_detections: tuple[int, ...] = (1, 10, 100)


@dataclass(frozen=True)
class Ranked:
    """Detections in matching order (class, image, falling score), cut at the largest number allowed.

    rank (D,) within the group · place (D,) position in the order (class, falling score) · first (K + 1,) first place
    of each class.
    """

    found: Found
    rank: Tensor
    place: Tensor
    first: Tensor


def evaluate_detections(found: Found, truth: Truth, protocol: Protocol) -> dict[str, Tensor]:
    """precision (T, R, K, A, M), recall (T, K, A, M), scores (T, R, K, A, M) float64, -1 without ground truth.

    Images are numbered in the order that decides ties between equal scores.
    """
    ranked = rank_detections(found, protocol)
    truth = truth.select((truth.label * protocol.images + truth.image).argsort(stable=True))
    pairs = overlapping_pairs(ranked.found, truth, protocol)
    low, high = truth.box.new_tensor(protocol.areas).T[:, :, None]  # (A, 1)
    ignored = truth.crowd | (truth.area < low) | (truth.area > high)  # (A, G)
    thresholds = truth.box.new_tensor(protocol.ious).clamp(max=1 - 1e-10)
    matches = match(pairs, ignored, truth.crowd, thresholds)
    return accumulate(ranked, truth, ignored, matches, protocol)


def rank_detections(found: Found, protocol: Protocol) -> Ranked:
    """Sort into groups, rank within each, drop what is beyond the largest number of detections."""
    if len(found) and bool((found.image[1:] < found.image[:-1]).any()):
        found = found.select(found.image.argsort(stable=True))
    by_score = (-found.score).argsort(stable=True)
    group = found.label * protocol.images + found.image
    order = by_score[group[by_score].argsort(stable=True)]
    group = group[order]
    numbers = torch.arange(len(order), device=order.device)
    rank = numbers - torch.searchsorted(group, group)
    kept = rank < protocol.max_detections[-1]
    order, rank = order[kept], rank[kept]
    # where each kept detection stands in its class by falling score
    standing = torch.empty_like(by_score)
    standing[by_score] = numbers
    by_place = (found.label[order] * max(len(found), 1) + standing[order]).argsort()
    place = torch.empty_like(by_place)
    place[by_place] = torch.arange(len(order), device=order.device)
    counts = torch.bincount(found.label[order], minlength=protocol.classes)
    return Ranked(found.select(order), rank, place, _starts(counts))


def overlapping_pairs(found: Found, truth: Truth, protocol: Protocol) -> Pairs:
    """Pairs of one image and class whose IoU reaches the lowest threshold."""
    lowest = min(*protocol.ious, 1 - 1e-10)
    first, second = candidate_pairs(
        found.label * protocol.images + found.image, truth.label * protocol.images + truth.image
    )
    if protocol.kind == "segm":
        overlap = mask_overlap(found.masks, truth.masks, first, second, truth.crowd[second], lowest)
    else:
        overlap = box_overlap(found.box[first], truth.box[second], truth.crowd[second])
    near = (overlap >= lowest).nonzero()[:, 0]
    return Pairs(first[near], second[near], overlap[near])


def accumulate(
    ranked: Ranked, truth: Truth, ignored: Tensor, matches: Matches, protocol: Protocol
) -> dict[str, Tensor]:
    """The arrays from the matches alone: between two matches precision only falls, so nothing else has to be read."""
    counted = torch.stack([torch.bincount(truth.label[~row], minlength=protocol.classes) for row in ignored])  # (A, K)
    hit = ~ignored[matches.area, matches.truth]
    real = ~(hit & truth.unmatchable[matches.truth])
    matches = Matches(*(getattr(matches, name)[real] for name in ("threshold", "area", "found", "truth")))
    hit = hit[real]
    low, high = truth.box.new_tensor(protocol.areas).T[:, :, None]
    in_range = ~((ranked.found.area < low) | (ranked.found.area > high))  # (A, D)
    case = matches.threshold * len(protocol.areas) + matches.area
    order = (case * max(len(ranked.found), 1) + ranked.place[matches.found]).argsort()
    matches = Matches(*(getattr(matches, name)[order] for name in ("threshold", "area", "found", "truth")))
    hit = hit[order]
    parts = []
    for limit in protocol.max_detections:
        chosen = ranked.rank[matches.found] < limit
        subset = Matches(*(getattr(matches, name)[chosen] for name in ("threshold", "area", "found", "truth")))
        parts.append(_curves(ranked, in_range, counted, subset, hit[chosen], limit, protocol))
    return {name: torch.stack([part[name] for part in parts], -1) for name in ("precision", "recall", "scores")}


def _curves(
    ranked: Ranked, in_range: Tensor, counted: Tensor, matches: Matches, hit: Tensor, limit: int, protocol: Protocol
) -> dict[str, Tensor]:
    ranges, classes = counted.shape
    shape = (len(protocol.ious), ranges, classes)
    label = ranked.found.label[matches.found]
    curve = (matches.threshold * ranges + matches.area) * classes + label  # rising
    numbers = torch.bincount(curve, minlength=shape[0] * ranges * classes)
    begin = _starts(numbers)[curve]
    inside = in_range[matches.area, matches.found]
    true = _running(hit)
    false = _running(inside)
    true_positives = true[1:] - true[begin]
    # false positives: detections of this class up to here, in range, less those matched
    standing = torch.zeros_like(in_range)
    standing[:, ranked.place] = in_range & (ranked.rank < limit)
    standing = torch.nn.functional.pad(standing.cumsum(1), (1, 0))  # (A, D + 1)
    place = ranked.place[matches.found]
    up_to = standing[matches.area, place + 1] - standing[matches.area, ranked.first[label]]
    total = true_positives + up_to - (false[1:] - false[begin])
    hits = hit.nonzero()[:, 0]
    true_positives, total, curve = true_positives[hits], total[hits], curve[hits]
    precision = _envelope(true_positives, total, curve)
    score = ranked.found.score[matches.found[hits]]
    reached = torch.bincount(curve, minlength=shape[0] * ranges * classes)
    start = _starts(reached)[:-1]
    needed = _hits_needed(counted, protocol.recalls)  # (R, A, K)
    index = start.view(shape)[:, None] + needed.clamp(min=1) - 1  # (T, R, A, K)
    attained = needed.clamp(min=1) <= reached.view(shape)[:, None]
    precision = torch.where(attained, _padded(precision)[index * attained], 0.0)
    score = torch.where(attained, _padded(score)[index * attained], 0.0)
    top = _padded(_by_place(ranked.found.score, ranked.place))[ranked.first[:-1].clamp(max=len(ranked.found))]
    top = torch.where(ranked.first[1:] > ranked.first[:-1], top, 0.0)
    score = torch.where(needed == 0, top, score)  # recall 0 is read at the first detection, right or wrong
    absent = counted == 0
    recall = reached.view(shape) / counted.clamp(min=1).double()
    return {
        "precision": torch.where(absent, -1.0, precision).transpose(2, 3),
        "scores": torch.where(absent, -1.0, score).transpose(2, 3),
        "recall": torch.where(absent, -1.0, recall).transpose(1, 2),
    }


def _envelope(true_positives: Tensor, total: Tensor, curve: Tensor) -> Tensor:
    """Precision made non-increasing along each curve, exactly: a running maximum from the end over integer keys.

    true / total with total < 2**b differ by at least 2**-2b when they differ, so 2b + 1 bits order them; the curve's
    number goes above. The reference adds 2.2e-16 to total, which matters where total is 1.
    """
    precision = true_positives / (total.double() + np.spacing(1))
    if not len(total):
        return precision
    bits = 2 * int(total.max()).bit_length() + 1
    if bits + int(curve.max()).bit_length() > 61:
        raise ValueError(f"DetectionAP: {int(total.max())} detections of one class are more than can be ranked exactly")
    key = torch.div(true_positives << bits, total, rounding_mode="floor") - (total == 1).long()
    key = key + ((curve.max() - curve) << (bits + 1))
    best = key.flip(0).cummax(0).indices
    return precision.flip(0)[best].flip(0)


def _hits_needed(counted: Tensor, recalls: tuple[float, ...]) -> Tensor:
    """Fewest true positives whose share of `counted` (A, K), as float64, reaches each recall: (R, A, K)."""
    recall = torch.tensor(recalls, dtype=torch.float64, device=counted.device)[:, None, None]
    number = counted.clamp(min=1).double()
    needed = (recall * number).ceil() + 1
    for _ in range(2):
        needed = torch.where((needed > 0) & ((needed - 1) / number >= recall), needed - 1, needed)
    return needed.long()


def _starts(counts: Tensor) -> Tensor:
    """Exclusive running sum with the total at the end."""
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0))


def _running(flags: Tensor) -> Tensor:
    return _starts(flags.long())


def _padded(values: Tensor) -> Tensor:
    return torch.nn.functional.pad(values, (0, 1))


def _by_place(values: Tensor, place: Tensor) -> Tensor:
    ordered = torch.empty_like(values)
    ordered[place] = values
    return ordered
