"""Which values the settings of losses may have, and the one check that refuses all others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

__all__ = [
    "AT_LEAST_0",
    "COUNT",
    "EPOCHS",
    "POSITIVE",
    "SHARE",
    "SHARE_OR_NONE",
    "SWITCH",
    "Numbers",
    "Switch",
    "check_settings",
]


@dataclass(frozen=True)
class Numbers:
    """The finite numbers from `low` to `high`, as text what a message calls them.

    `above`: `low` itself is not one of them, `below`: nor is `high`; `whole`: only integers; `none`: None too.
    """

    text: str
    low: float = 0.0
    high: float = math.inf
    above: bool = False
    below: bool = False
    whole: bool = False
    none: bool = False

    def __contains__(self, value: Any) -> bool:
        if value is None:
            return self.none
        if isinstance(value, bool) or not isinstance(value, Integral if self.whole else Real):
            return False
        if not math.isfinite(value) or not self.low <= value <= self.high:
            return False
        return not (self.above and value == self.low) and not (self.below and value == self.high)

    def __str__(self) -> str:
        return self.text


class Switch:
    """True and False."""

    def __contains__(self, value: Any) -> bool:
        return isinstance(value, bool)

    def __str__(self) -> str:
        return "true or false"


AT_LEAST_0 = Numbers("a number of 0 or more")
POSITIVE = Numbers("a number above 0", above=True)
SHARE = Numbers("a number above 0, up to 1", above=True, high=1)
EPOCHS = Numbers("a whole number of 0 or more", whole=True)
COUNT = Numbers("a whole number of 1 or more", low=1, whole=True)
SHARE_OR_NONE = Numbers("a number from 0 to 1, or null", high=1, none=True)
SWITCH = Switch()


def check_settings(
    where: str, given: Mapping[str, Any], allowed: Mapping[str, Numbers | Switch], more: tuple[str, ...] = ()
) -> None:
    """ValueError when `given` has a key that neither `allowed` nor `more` has, or a value outside its range.

    The message starts with `where`, the path of the settings in a recipe. Values of `more` are not looked at.
    """
    unknown = [str(key) for key in given if key not in allowed and key not in more]
    if unknown:
        known = ", ".join(sorted({*allowed, *more})) or "none"
        raise ValueError(f"{where}: unknown {', '.join(sorted(unknown))}; known are: {known}")
    for key, value in given.items():
        if key in allowed and value not in allowed[key]:
            raise ValueError(f"{where}.{key} = {value!r}; expected {allowed[key]}")
