"""What a run tells: a progress bar, `metrics.jsonl`, TensorBoard curves, `results.md`."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vision.engine.files import write_text

__all__ = ["LossMeter", "RunLog", "flat", "logger", "progress_bar"]

logger = logging.getLogger("vision")


def progress_bar(
    total: int, label: str = "", enabled: bool = True, *, start: int = 0, unit: str = "step", leave: bool = True,
    items: Iterable | None = None,
) -> Any:  # fmt: skip
    """A bar on stderr with rate and time left, of `total` units (0: not known), around `items` if given.

    In a file it is a line every ten seconds; not at all where it is not `enabled`.
    """
    from tqdm import tqdm

    shown = {"file": sys.stderr, "dynamic_ncols": True, "mininterval": 0.5}
    if not sys.stderr.isatty():
        shown = {"file": _Lines(), "ncols": 100, "mininterval": 10.0, "delay": 0.0 if leave else 10.0, "ascii": True}
    return tqdm(
        items, total=total or None, initial=start, desc=label, unit=unit, disable=not enabled, leave=leave,
        smoothing=0.1, **shown,
    )  # fmt: skip


class _Lines:
    """Standard error without a terminal: what would be written over a line becomes a line of its own."""

    def write(self, text: str) -> None:
        for mark in ("\r", "\n", "\x1b[A"):
            text = text.replace(mark, "")
        if text.strip():
            sys.stderr.write(text.rstrip() + "\n")

    def flush(self) -> None:
        sys.stderr.flush()


class LossMeter:
    """Means of the losses since they were last read, added up on the device without a host sync."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def add(self, losses: dict[str, Tensor]) -> None:
        for name, value in losses.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._count += 1

    def peek(self) -> float:
        """The mean of the summed losses so far, nan before the first."""
        return float(torch.stack(list(self._sums.values())).sum()) / self._count if self._count else float("nan")

    def read(self) -> dict[str, float]:
        """{"loss": their sum, name: mean}, empty when nothing was added; starts anew."""
        if not self._count:
            return {}
        values = (torch.stack(list(self._sums.values())) / self._count).tolist()  # one host sync
        means = dict(zip(self._sums, values))
        self._sums, self._count = {}, 0
        return {"loss": sum(means.values()), **means}


class RunLog:
    """The records of a run in its folder; on ranks other than the main one every call does nothing."""

    def __init__(self, folder: Path, enabled: bool = True):
        self.folder, self.enabled = Path(folder), enabled
        self._writer: Any = None

    def record(self, step: int, values: dict[str, Any]) -> None:
        """One line of `metrics.jsonl` and a point of each scalar's curve."""
        if not self.enabled:
            return
        with open(self.folder / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        self.curves(step, values)

    def curves(self, step: int, values: dict[str, Any]) -> None:
        if not self.enabled:
            return
        if self._writer is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # tensorboard's own deprecations
                from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self.folder))
        for name, value in flat(values, "/").items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                self._writer.add_scalar(name, float(value), step)
        self._writer.flush()

    def forget_after(self, step: int) -> None:
        """Drops records of steps that a resumed run will do again, so that no step is in the file twice."""
        path = self.folder / "metrics.jsonl"
        if not self.enabled or not path.is_file():
            return
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line)
            except (json.JSONDecodeError, KeyError):
                continue  # a line cut short by a kill
        write_text(path, "".join(line + "\n" for line in kept))

    def results(self, text: str) -> None:
        """Writes `results.md`."""
        if self.enabled:
            write_text(self.folder / "results.md", text)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def flat(values: dict[str, Any], separator: str, prefix: str = "") -> dict[str, Any]:
    """The leaves of nested dictionaries by the keys that lead to them, joined by `separator`."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= (
            flat(value, separator, f"{prefix}{key}{separator}") if isinstance(value, dict) else {prefix + key: value}
        )
    return found
