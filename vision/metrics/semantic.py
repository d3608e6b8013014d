"""What is measured of semantic maps: pixels always; outlines, regions and the order of scores on request."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vision.metrics.rand import RandScore
from vision.metrics.segmentation import SegmentationScore
from vision.metrics.surface_score import OutlineOptions, SurfaceDistance
from vision.structures import ClassMap

__all__ = ["SEMANTIC_TITLES", "SemanticResults", "semantic_metrics", "update_semantic"]

SCORE_BINS = 4096
NOTHING = -1  # no label of a map: nothing is left out
SEMANTIC_TITLES = {
    "semantic": "Semantic segmentation",
    "surface": "Outlines, in units of the spacing of the source images' pixels",
    "rand": "Connected regions",
}


def semantic_metrics(
    classes: ClassMap,
    ignore: int = 255,
    *,
    analyse: bool = False,
    per_image: bool = False,
    with_scores: bool = False,
    outlines: OutlineOptions | None = None,
    against_absence: bool = False,
) -> dict[str, Any]:
    """The metrics by name: "semantic"; with `analyse`, "surface" (Hausdorff distance, HD95, mean surface distance,
    surface Dice, boundary IoU) and "rand", and in "semantic" the average precision where there are scores.

    per_image: figures of pixels are means over images (average precision is not made then). outlines: how "surface"
    measures. against_absence, of a single class: label 0 is the class, any other, `ignore` too, is not; all pixels
    count. ValueError for outlines without `analyse`.
    """
    if outlines is not None and not analyse:
        raise ValueError("semantic_metrics: spacing, percentile and tolerance without analyse, which measures outlines")
    bins = SCORE_BINS if analyse and with_scores and not per_image else 0
    ignore = NOTHING if against_absence else ignore
    score = SegmentationScore(classes, ignore, multi_label=against_absence, per_image=per_image, score_bins=bins)
    metrics: dict[str, Any] = {"semantic": score}
    if analyse:
        chosen = outlines or OutlineOptions()
        surface = SurfaceDistance(
            classes, chosen.spacing, percentile=chosen.percentile, tolerance=chosen.tolerance, ignore=ignore
        )
        metrics |= {"surface": surface, "rand": RandScore(classes, ignore)}
    return metrics


def update_semantic(metrics: dict[str, Any], labels: Tensor, truth: Tensor, scores: Tensor | None = None) -> None:
    """Count one image, labels and truth (H, W), scores (C, H, W), in each of `semantic_metrics`."""
    for metric in metrics.values():
        pair = labels[None], truth[None]
        if isinstance(metric, SegmentationScore):
            if metric.multi_label:
                pair = tuple((one == 0).long() for one in pair)
            metric.update(*pair, None if scores is None or not metric.precision else scores[None])
        else:
            metric.update(*pair)


@dataclass(frozen=True)
class SemanticResults:
    """The results of `semantic_metrics` by name."""

    results: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """One metric stands at the top level, several each under their own name."""
        parts = {name: result.to_dict() for name, result in self.results.items()}
        return next(iter(parts.values())) if len(parts) == 1 else parts

    def table(self, style: str = "console") -> str:
        """The tables one after the other: "console", "markdown", "csv"; or everything as "json"."""
        if style == "json":
            return json.dumps(self.to_dict(), indent=2)
        tables = [f"{SEMANTIC_TITLES[name]}\n{result.table(style)}" for name, result in self.results.items()]
        return "\n\n".join(tables) if len(tables) > 1 else next(iter(self.results.values())).table(style)
