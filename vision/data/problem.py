"""What can be wrong with a data set: one `Problem` for each thing found, and the error that refuses a data set."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["DataError", "MissingSplit", "Problem", "as_problem"]


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


def as_problem(error: DataError, file: str, expected: str) -> Problem:
    """An error about `file` as a Problem; `expected` stands where the error does not say itself what was expected."""
    text, where = str(error), ""
    begin = re.match(rf"{re.escape(file)}(?:, ([^:]*))?: ", text)
    if begin:
        text, where = text[begin.end() :], begin[1] or ""
    value, _, stated = text.partition("; expected ")
    return Problem("error", file, where, value, stated or expected)
