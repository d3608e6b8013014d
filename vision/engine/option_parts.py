"""Parts of free-form settings on the command line, at any depth: `--model_options.backbone_options.width 0.5`."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

import yaml

__all__ = ["take_parts", "with_parts"]


def take_parts(arguments: Sequence[str], free: Collection[str]) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """The arguments but for the parts of the settings named in `free`; and these parts, by setting, as nested mappings.

    Values are YAML. ValueError for a part without a value, or one whose parent has a value of its own.
    """
    left: list[str] = []
    parts: dict[str, dict[str, Any]] = {}
    remaining = iter(arguments)
    for argument in remaining:
        name, equals, text = argument.partition("=")
        setting, *path = name.removeprefix("--").split(".")
        setting = setting.replace("-", "_")
        if not name.startswith("--") or setting not in free or not path:
            left.append(argument)
            continue
        if not equals:
            text = next(remaining, "--")
            if text.startswith("--"):
                raise ValueError(f"{name}: no value behind it; expected one, as {name} 1")
        place = parts.setdefault(setting, {})
        for key in path[:-1]:
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                raise ValueError(f"{name}: {key} has the value {place!r} already; give either that or parts of it")
        place[path[-1]] = _value(name, text)
    return left, parts


def with_parts(given: dict[str, Any], parts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The settings `given` with `parts` on top of them. ValueError where a setting is given whole and is no mapping."""
    for setting, content in parts.items():
        whole = given.get(setting)
        if whole is not None and not isinstance(whole, dict):
            raise ValueError(f"{setting}: {whole!r} and parts of it ({', '.join(content)}); give one or the other")
        given = {**given, setting: _merged(whole or {}, content)}
    return given


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    both = {key: _merged(base[key], over[key]) for key in base.keys() & over.keys()
            if isinstance(base[key], dict) and isinstance(over[key], dict)}  # fmt: skip
    return {**base, **over, **both}


def _value(name: str, text: str) -> Any:
    if re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+", text):
        return float(text)  # YAML takes 1e-3 for text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{name}: {text!r} is not YAML ({' '.join(str(error).split())})") from None
