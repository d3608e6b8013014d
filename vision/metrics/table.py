"""Tables of figures as text: console, Markdown, CSV, JSON. An undefined figure (None or NaN) shows as "-"."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["defined", "format_table", "note_left_out", "null_undefined", "result_table"]


def null_undefined(value: Any) -> Any:
    """The same nested content as plain Python with None for NaN; infinity stays (see `docs/metrics.md`)."""
    if isinstance(value, Mapping):
        return {str(key): null_undefined(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [null_undefined(item) for item in value]
    if hasattr(value, "tolist"):
        return null_undefined(value.tolist())
    return None if isinstance(value, float) and math.isnan(value) else value


def defined(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def _text(value: Any) -> str:
    if not defined(value):
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def format_table(header: Sequence[str], rows: Sequence[Sequence[Any]], style: str = "console") -> str:
    """One table. Style: "console", "markdown", "csv" or "json" (a list of records, null for undefined)."""
    if style == "json":
        return json.dumps([dict(zip(header, null_undefined(list(row)))) for row in rows], indent=2)
    cells = [list(header)] + [[_text(value) for value in row] for row in rows]
    if style == "csv":
        import csv
        import io

        buffer = io.StringIO()
        full = [[repr(v) if isinstance(v, float) and defined(v) else _text(v) for v in row] for row in rows]
        csv.writer(buffer, lineterminator="\n").writerows([list(header), *full])
        return buffer.getvalue().rstrip("\n")
    if style not in ("console", "markdown"):
        raise ValueError(f"format_table: style {style!r}; expected console, markdown, csv or json")
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = [
        [cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths))]
        for row in cells
    ]
    if style == "console":
        return "\n".join("  ".join(line).rstrip() for line in lines)
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]])


def note_left_out(classes: int, style: str = "console") -> str:
    """A line to follow a table, of the classes that enter no mean; nothing where there are none, in CSV and in JSON."""
    return f"\n\nclasses left out of means: {classes}" if classes and style in ("console", "markdown") else ""


def result_table(figures: Mapping[str, Any], style: str = "console") -> str:
    """The table of a result's `to_dict()`: overall figures and by which rules, then a row for each of `per_class`."""
    overall = {name: value for name, value in figures.items() if not isinstance(value, Mapping)}
    per_class = figures.get("per_class") or {}
    if style == "json":
        return json.dumps(null_undefined(figures), indent=2)
    parts = [format_table(["metric", "value"], list(overall.items()), style)]
    if per_class:
        columns = list(next(iter(per_class.values())))
        rows = [[name, *(row.get(column) for column in columns)] for name, row in per_class.items()]
        parts.append(format_table(["class", *columns], rows, style))
    return "\n\n".join(parts)
