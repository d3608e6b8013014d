"""Precision, recall and score arrays of the COCO protocol from flat detections and ground truths."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from vision.metrics.matching import Matches, match
from vision.metrics.overlap import Found, Truth, overlapping_pairs
from vision.metrics.runs import exclusive_sum

__all__ = [
    "AREA_RANGES", "IOU_THRESHOLDS", "RECALL_THRESHOLDS", "Protocol", "Ranked", "envelope", "evaluate_detections",
    "hits_needed", "rank_detections",
]  # fmt: skip

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

    rank (D,) within the group · place (D,) position in the order (class, falling score) · by_place (D,) its inverse ·
    first (K + 1,) first place of each class.
    """

    found: Found
    rank: Tensor
    place: Tensor
    by_place: Tensor
    first: Tensor


def evaluate_detections(found: Found, truth: Truth, protocol: Protocol) -> dict[str, Tensor]:
    """precision (T, R, K, A, M), recall (T, K, A, M), scores (T, R, K, A, M) float64, -1 without ground truth.

    Images are numbered in the order that decides ties between equal scores.
    """
    ranked = rank_detections(found, protocol)
    truth = truth.select((truth.label * protocol.images + truth.image).argsort(stable=True))
    groups = tuple(one.label * protocol.images + one.image for one in (ranked.found, truth))
    pairs = overlapping_pairs(ranked.found, truth, groups, protocol.kind, min(*protocol.ious, 1 - 1e-10))
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
    group, order = (found.label * protocol.images + found.image)[by_score].sort(stable=True)
    numbers = torch.arange(len(order), device=order.device)
    opens = torch.ones_like(group, dtype=torch.bool)
    opens[1:] = group[1:] != group[:-1]
    rank = numbers - torch.where(opens, numbers, 0).cummax(0).values if len(order) else numbers
    kept = (rank < protocol.max_detections[-1]).nonzero()[:, 0]
    # order: positions in by_score, which standing also ranks by score
    order, rank = order.index_select(0, kept), rank.index_select(0, kept)
    chosen = found.select(by_score.index_select(0, order))
    by_place = (chosen.label * max(len(found), 1) + order).argsort()
    place = torch.empty_like(by_place)
    place[by_place] = numbers[: len(order)]
    counts = torch.bincount(chosen.label, minlength=protocol.classes)
    return Ranked(chosen, rank, place, by_place, exclusive_sum(counts))


@dataclass(frozen=True)
class Events:
    """The matches that move a curve, in the order (curve, falling score): curve (E,) = (threshold * A + area) * K +
    class · standing (E,) = area * (D + 1) + place + 1 · rank, score of the detection · hit: true positive · inside: a
    detection within the range of area, which would have been a false positive without the match."""

    curve: Tensor
    standing: Tensor
    rank: Tensor
    score: Tensor
    hit: Tensor
    inside: Tensor

    def select(self, index: Tensor) -> Events:
        return Events(*(getattr(self, f.name).index_select(0, index) for f in fields(self)))


def accumulate(
    ranked: Ranked, truth: Truth, ignored: Tensor, matches: Matches, protocol: Protocol
) -> dict[str, Tensor]:
    """The arrays from the matches alone: between two matches precision only falls, so nothing else has to be read."""
    counted = torch.stack([torch.bincount(truth.label[~row], minlength=protocol.classes) for row in ignored])  # (A, K)
    low, high = truth.box.new_tensor(protocol.areas).T[:, :, None]
    in_range = ~((ranked.found.area < low) | (ranked.found.area > high))  # (A, D)
    events = _events(ranked, truth, ignored, in_range, matches, protocol)
    in_range, rank = in_range[:, ranked.by_place], ranked.rank.index_select(0, ranked.by_place)
    parts = []
    for limit in protocol.max_detections:
        last = limit == protocol.max_detections[-1]
        chosen = events if last else events.select((events.rank < limit).nonzero()[:, 0])
        standing = exclusive_sum(in_range if last else in_range & (rank < limit))
        parts.append(_curves(chosen, standing, ranked, counted, protocol))
    return {name: torch.stack([part[name] for part in parts], -1) for name in ("precision", "recall", "scores")}


def _events(
    ranked: Ranked, truth: Truth, ignored: Tensor, in_range: Tensor, matches: Matches, protocol: Protocol
) -> Events:
    found, place = matches.found, ranked.place.index_select(0, matches.found)
    hit = ~ignored.flatten()[matches.area * len(truth) + matches.truth]
    inside = in_range.flatten()[matches.area * len(ranked.found) + found]
    real = ~(hit & truth.unmatchable.index_select(0, matches.truth))
    case = matches.threshold * len(protocol.areas) + matches.area
    moves = ((hit | inside) & real).nonzero()[:, 0]
    number = max(len(ranked.found), 1)
    order = moves[(case.index_select(0, moves) * number + place.index_select(0, moves)).argsort()]
    found = found.index_select(0, order)
    return Events(
        case.index_select(0, order) * protocol.classes + ranked.found.label.index_select(0, found),
        matches.area.index_select(0, order) * (len(ranked.found) + 1) + place.index_select(0, order) + 1,
        ranked.rank.index_select(0, found),
        ranked.found.score.index_select(0, found),
        hit.index_select(0, order),
        inside.index_select(0, order),
    )


def _curves(events: Events, standing: Tensor, ranked: Ranked, counted: Tensor, protocol: Protocol) -> dict[str, Tensor]:
    """Arrays for one limit of detections; standing (A, D + 1): detections in range before each place."""
    shape = (len(protocol.ious), *counted.shape)  # (T, A, K)
    curves = shape[0] * shape[1] * shape[2]
    hits = events.hit.nonzero()[:, 0]
    curve = events.curve.index_select(0, hits)
    reached = torch.bincount(curve, minlength=curves)
    start = exclusive_sum(reached)[:-1]
    true_positives = torch.arange(1, len(hits) + 1, device=hits.device) - start.index_select(0, curve)
    # false positives: detections of this class up to here that are in range, less those among them that are matched
    matched = exclusive_sum(events.inside)
    first_event = exclusive_sum(torch.bincount(events.curve, minlength=curves))[:-1]
    offset = matched[first_event] - standing[:, ranked.first[:-1]].expand(shape).flatten()
    false_positives = (
        standing.flatten().index_select(0, events.standing.index_select(0, hits))
        - matched.index_select(0, hits + 1)
        + offset.index_select(0, curve)
    )
    precision = envelope(true_positives, true_positives + false_positives, curve)
    score = events.score.index_select(0, hits)

    needed = hits_needed(counted, protocol.recalls)  # (R, A, K)
    reached, start = reached.view(shape)[:, None], start.view(shape)[:, None]
    attained = needed.clamp(min=1) <= reached
    index = torch.where(attained, start + needed.clamp(min=1) - 1, 0)  # (T, R, A, K)
    precision = torch.where(attained, _padded(precision)[index], 0.0)
    score = torch.where(attained, _padded(score)[index], 0.0)
    score = torch.where(needed == 0, _top_scores(ranked), score)  # recall 0 is read at the first one, right or wrong
    absent = counted == 0
    recall = reached[:, 0] / counted.clamp(min=1).double()
    return {
        "precision": torch.where(absent, -1.0, precision).transpose(2, 3),
        "scores": torch.where(absent, -1.0, score).transpose(2, 3),
        "recall": torch.where(absent, -1.0, recall).transpose(1, 2),
    }


def _top_scores(ranked: Ranked) -> Tensor:
    """Highest score of each class (K,), 0 without detections."""
    top = _padded(ranked.by_place)[ranked.first[:-1]]
    return torch.where(ranked.first[1:] > ranked.first[:-1], _padded(ranked.found.score)[top], 0.0)


def envelope(true_positives: Tensor, total: Tensor, curve: Tensor, added: float = np.spacing(1)) -> Tensor:
    """Precision made non-increasing along each curve, exactly: a running maximum from the end over integer keys.

    true / total with total < 2**b differ by at least 2**-2b when they differ, so 2b + 1 bits order them; the curve's
    number goes above. The reference of COCO adds 2.2e-16 to total, which matters where total is 1; VOC's adds 0.
    """
    precision = true_positives / (total.double() + added)
    if not len(total):
        return precision
    half = int(total.max()).bit_length()
    bits = 2 * half + 1
    if bits + int(curve.max()).bit_length() > 61:
        raise ValueError(f"DetectionAP: {int(total.max())} detections of one class are more than can be ranked exactly")
    # (true << bits) // total by long division in two steps, as the dividend itself may have more than 63 bits
    head = true_positives << half
    quotient = torch.div(head, total, rounding_mode="floor")
    rest = (head - quotient * total) << (half + 1)
    key = (quotient << (half + 1)) + torch.div(rest, total, rounding_mode="floor")
    if added:
        key = key - (total == 1).long()
    key = key + ((curve.max() - curve) << (bits + 1))
    best = key.flip(0).cummax(0).indices
    return precision.flip(0).index_select(0, best).flip(0)


def hits_needed(counted: Tensor, recalls: tuple[float, ...]) -> Tensor:
    """Fewest true positives whose share of `counted` (A, K), as float64, reaches each recall: (R, A, K)."""
    recall = torch.tensor(recalls, dtype=torch.float64, device=counted.device)[:, None, None]
    number = counted.clamp(min=1).double()
    needed = (recall * number).ceil() + 1
    for _ in range(2):
        needed = torch.where((needed > 0) & ((needed - 1) / number >= recall), needed - 1, needed)
    return needed.long()


def _padded(values: Tensor) -> Tensor:
    return torch.nn.functional.pad(values, (0, 1))
