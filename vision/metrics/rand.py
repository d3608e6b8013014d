"""Rand scores of the regions that a segmentation cuts an image into (Arganda-Carreras et al., Frontiers in
Neuroanatomy 9:142, 2015): whether pairs of pixels lie in one region, which a gap in a membrane changes for many pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vision.metrics.confusion import check_label_maps, is_ignored
from vision.metrics.sums import check_mergeable
from vision.metrics.table import null_undefined, result_table
from vision.ops.components import connected_components
from vision.ops.reduce import sum_over_processes
from vision.structures import ClassMap

__all__ = ["RandResult", "RandScore", "joined_pairs", "rand_figures"]


def joined_pairs(predicted: Tensor, truth: Tensor) -> Tensor:
    """Pairs of pixels that lie in one region of both, of `truth`, of `predicted`: (3,) int64, summed over images.

    predicted, truth (B, H, W): numbers of regions from 1 in each image, 0 = in none. Only pixels in a region of the
    truth count; there, predicted 0 is joined with nothing. Pairs are of two different pixels of one image.
    """
    if predicted.shape != truth.shape or truth.ndim != 3:
        raise ValueError(
            f"joined_pairs: predicted {tuple(predicted.shape)}, truth {tuple(truth.shape)}; expected equal"
        )
    counted = truth > 0
    image = torch.arange(len(truth), device=truth.device)[:, None, None].expand(truth.shape)[counted]
    there, found = truth[counted].long(), predicted[counted].long()
    joined = found > 0
    # one number for each region of any image
    side = int(torch.maximum(there.max(), found.max())) + 1 if len(there) else 1
    there, found = image * side + there, image * side + found
    place = there.unique(return_inverse=True)[1]
    both = place * (len(truth) * side) + found
    return torch.stack([_pairs(both[joined]), _pairs(there), _pairs(found[joined])])


def _pairs(groups: Tensor) -> Tensor:
    counts = groups.unique(return_counts=True)[1]
    return (counts * (counts - 1)).sum() // 2


def rand_figures(pairs: Tensor) -> dict[str, Tensor]:
    """Of `joined_pairs` (..., 3): split (share of the truth's pairs that stay joined), merge (share of the predicted
    pairs that belong together), V_rand (their weighted harmonic mean, F), rand_error = 1 - V_rand; float64, NaN where
    there are no pairs."""
    both, truth, predicted = pairs.double().unbind(-1)
    value = 2 * both / (truth + predicted)
    return {"V_rand": value, "rand_error": 1 - value, "rand_split": both / truth, "rand_merge": both / predicted}


@dataclass(frozen=True)
class RandResult:
    """figures by name (C,), of the connected regions of each class, NaN where undefined; pairs (C, 3) int64."""

    classes: ClassMap
    figures: dict[str, np.ndarray]
    pairs: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """By class; a score over classes would mix regions of different meaning, so there is none."""
        rows = {
            name: {key: float(values[i]) for key, values in self.figures.items()}
            for i, name in enumerate(self.classes.names)
        }
        undefined = int(np.isnan(self.figures["V_rand"]).sum())
        content = {"averaged_over": "pairs of pixels of all images", "classes_left_out": undefined, "per_class": rows}
        return null_undefined(content)

    def table(self, style: str = "console") -> str:
        """Per-class table: "console", "markdown", "csv" or "json"."""
        return result_table(self.to_dict(), style)


class RandScore:
    """Accumulates pairs of pixels over a data set, for the connected regions of each class. Nothing is warped.

    diagonal: pixels that touch at a corner are connected too. Truth pixels labelled `ignore` are in no region (with
    `ignore` below 0, nor are other labels beyond the classes, else an error). State (C, 3) on the device of its inputs;
    the search for regions waits for the device.
    """

    def __init__(self, classes: ClassMap | Sequence[str] | int, ignore: int = 255, *, diagonal: bool = False):
        self.classes = ClassMap.of(classes)
        self.ignore, self.diagonal = ignore, diagonal
        self.reset()

    def reset(self) -> None:
        self.pairs = torch.zeros((len(self.classes), 3), dtype=torch.int64)

    def to(self, device: torch.device | str) -> RandScore:
        self.pairs = self.pairs.to(device)
        return self

    def update(self, predicted: Tensor, truth: Tensor) -> None:
        """Count predicted and truth (B, H, W), integer labels."""
        if predicted.shape != truth.shape or truth.ndim != 3:
            shapes = f"predicted {tuple(predicted.shape)}, truth {tuple(truth.shape)}"
            raise ValueError(f"RandScore.update: {shapes}; expected equal (B, H, W)")
        check_label_maps("RandScore.update", predicted, truth, len(self.classes), self.ignore)
        rows, counted = [], ~is_ignored(truth, self.ignore)
        for label in range(len(self.classes)):
            masks = (predicted == label, (truth == label) & counted)
            rows.append(joined_pairs(*(connected_components(mask, diagonal=self.diagonal) for mask in masks)))
        self.pairs = self.pairs.to(truth.device) + torch.stack(rows)

    def merge(self, other: RandScore) -> None:
        """Add what another score of the same settings has counted."""
        check_mergeable(self, other, "ignore", "diagonal")
        self.pairs = self.pairs + other.pairs.to(self.pairs.device)

    def all_reduce(self) -> None:
        """Sum over the processes of torch.distributed; nothing to do without them."""
        self.pairs = sum_over_processes(self.pairs)

    def compute(self) -> RandResult:
        pairs = self.pairs.cpu()
        figures = {name: value.numpy() for name, value in rand_figures(pairs).items()}
        return RandResult(self.classes, figures, pairs.numpy())
