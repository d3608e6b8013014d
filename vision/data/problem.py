"""What can be wrong with a data set: one `Problem` for each thing found, and the error that refuses a data set."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DataError", "MissingSplit", "Problem"]


class DataError(ValueError):
    """A data set cannot be used. The message names the file, what came, what was expected and what to do."""


class MissingSplit(DataError):
    """A data set has no split of that name."""


@dataclass(frozen=True)
class Problem:
    """One thing found in a data set.

    severity: "error" (the data set is refused until it is mended), "warning" (something was left out or mended by a
    stated rule) or "note" (unusual, but used as it is) · file · where in it (line, annotation id, object), may be
    empty · value that came · what was expected, and what is done about it.
    """

    severity: str
    file: str
    where: str
    value: str
    expected: str

    def __str__(self) -> str:
        place = f"{self.file}, {self.where}" if self.where else self.file
        return f"{place}: {self.value}; expected {self.expected}"
