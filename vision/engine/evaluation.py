"""What an evaluation returns: results by name, their headline and their tables."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

from vision.metrics.semantic import SEMANTIC_TITLES

__all__ = ["Evaluation"]

HEADLINES = ("panoptic", "semantic", "segm", "bbox")
TITLES = {
    "panoptic": "Panoptic segmentation",
    "bbox": "Boxes",
    "segm": "Masks",
    "boundary": "Boundaries of masks",
    **SEMANTIC_TITLES,
}


@dataclass(frozen=True)
class Evaluation:
    """Results by name ("bbox", "segm", "panoptic", ...): what each metric's `compute` returned; and on what."""

    results: dict[str, Any]
    description: dict[str, Any] = field(default_factory=dict)

    @property
    def headline(self) -> tuple[str, float]:
        """The number that models are compared by, and its name: PQ, mIoU, mask AP or box AP; NaN where undefined."""
        kind = next(kind for kind in HEADLINES if kind in self.results)
        name = {"panoptic": "PQ", "semantic": "mIoU"}.get(kind, "AP")
        value = self.results[kind].to_dict()[name]
        return ("mask_AP" if kind == "segm" else name), math.nan if value is None else float(value)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able. One metric stands at the top level, several each under their own name."""
        parts = {kind: result.to_dict() for kind, result in self.results.items()}
        return {**self.description, **(next(iter(parts.values())) if len(parts) == 1 else parts)}

    def table(self, style: str = "console") -> str:
        """The tables, overall and per class: "console", "markdown", "csv"; or everything as "json"."""
        if style == "json":
            return json.dumps(self.to_dict(), indent=2)
        return "\n\n".join(f"{TITLES[kind]}\n{result.table(style)}" for kind, result in self.results.items())

    def markdown(self) -> str:
        lines = [f"- {name}: {value}" for name, value in self.description.items()]
        parts = [f"## {TITLES[kind]}\n\n{result.table('markdown')}" for kind, result in self.results.items()]
        return "# Evaluation\n\n" + "\n".join(lines) + "\n\n" + "\n\n".join(parts) + "\n"
