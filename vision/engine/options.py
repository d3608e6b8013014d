"""From recipe, configuration file and command line to a `TrainConfig`; the help is the fields' own docstrings."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import importlib.resources
import inspect
import itertools
import json
import re
import sys
import typing
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from vision.engine.config import TrainConfig
from vision.engine.option_parts import take_parts, with_parts

__all__ = ["config_from_dict", "read_config", "recipe_names", "settings", "train_parser"]

# what a resumed run may be given anew; everything else must stay as it was for the run to go on as if nothing happened
RESUMABLE = frozenset(
    {"out", "resume", "device", "threads", "workers", "stop_after_epochs", "log_every", "save_seconds", "save_within"}
)
# free-form settings whose names are the keys of a dictionary: setting -> (what they are, file in the package, its name)
CHOICES = {
    "loss": ("losses", "losses/compose.py", "LOSSES"),
    "model_options": ("norms, in place of every batch norm", "layers/norm.py", "NORMS"),
}


@cache
def keys_in_source(file: str, dictionary: str) -> list[str]:
    """The keys of a dictionary that a file of the package defines, read from its text: importing it imports torch."""
    body = ast.parse((importlib.resources.files("vision") / file).read_text(encoding="utf-8")).body
    annotated = (node for node in body if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Dict))
    found = next(node.value for node in annotated if isinstance(node.target, ast.Name) and node.target.id == dictionary)
    return [ast.literal_eval(key) for key in found.keys if key is not None]


@cache
def field_help(cls: type) -> dict[str, str]:
    """The docstring under each field of a dataclass."""
    body = ast.parse(inspect.getsource(sys.modules[cls.__module__])).body
    fields = next(node for node in body if isinstance(node, ast.ClassDef) and node.name == cls.__name__).body
    texts = {}
    for node, following in itertools.pairwise(fields):
        is_text = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and is_text:
            texts[node.target.id] = " ".join(str(following.value.value).split())
    return texts


def _options(cls: type, prefix: str = "") -> list[tuple[str, Any, Any, str]]:
    """(dotted name, type, default, help) of every leaf field."""
    types, found = typing.get_type_hints(cls), []
    for item in dataclasses.fields(cls):
        default = item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
        if dataclasses.is_dataclass(types[item.name]):
            found += _options(types[item.name], f"{prefix}{item.name}.")
        else:
            found.append((prefix + item.name, types[item.name], default, field_help(cls).get(item.name, "")))
    return found


def train_parser() -> Any:
    """The parser of `vision train`: one option for every field of `TrainConfig`, nested ones with a dot."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(
        print_config=None,
        prog="vision train",
        usage="vision train --model NAME --data DATA --out DIR [options]",
        description="Train a model. Order of settings: defaults < recipe < --config file < command line.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="YAML file with any of the settings below")
    parser.add_argument(
        "--recipe",
        type=str | None,
        default=None,
        help=f"settings that ship with the package: {', '.join(recipe_names())}",
    )
    for name, kind, default, text in _options(TrainConfig):
        flag = "--" + name.replace("_", "-")
        if name in CHOICES:
            label, module, dictionary = CHOICES[name]
            text = f"{text}; {label}: {', '.join(keys_in_source(module, dictionary))}"
        if kind is bool and not default:
            parser.add_argument(flag, action="store_true", help=text)
        else:
            parser.add_argument(flag, type=kind, default=default, help=text)
    return parser


def recipe_names() -> list[str]:
    return sorted(path.stem for path in _recipe_folder().iterdir() if path.suffix == ".yaml")


def _recipe_folder() -> Path:
    return Path(str(importlib.resources.files("vision.recipes")))


def read_recipe(name: str) -> dict[str, Any]:
    """The settings of a recipe by name or path."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else _recipe_folder() / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(f"recipe {name!r} is not known; choose one of: {', '.join(recipe_names())}")
    content = read_yaml(path)
    check_keys(content, str(path))
    return content


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping. ValueError names the file and line when it does not."""
    try:
        content = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); give a YAML file with settings") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: is not YAML: {' '.join(str(error).split())}") from None
    if content is not None and not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}; expected settings as `key: value`")
    return content or {}


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`base` with `over` on top. Groups of settings are merged; free-form ones (augment, loss) are replaced whole.

    Where `over` chooses one_cycle, whose rise is its own, a warm-up of `base` is left behind; where it says when the
    run ends, the other way of saying so.
    """
    merged = dict(base)
    ends = {"epochs", "cpu_seconds"}
    if any(over.get(key) is not None for key in ends):
        merged |= dict.fromkeys(ends & set(merged))
    groups = {name.split(".")[0] for name, *_ in _options(TrainConfig) if "." in name}
    for key, value in over.items():
        if key in groups and isinstance(value, dict) and isinstance(merged.get(key), dict):
            left = {"warmup": None} if key == "schedule" and value.get("name") == "one_cycle" else {}
            merged[key] = {**merged[key], **left, **value}
        else:
            merged[key] = value
    return merged


def config_from_dict(content: dict[str, Any], where: str = "settings") -> TrainConfig:
    """A checked `TrainConfig` from plain values. ValueError names an unknown key or a bad value."""
    check_keys(content, where)
    try:
        return _build(TrainConfig, _parse_object(content))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def check_keys(content: dict[str, Any], where: str) -> None:
    """ValueError for a key that `TrainConfig` does not have."""
    names = [name for name, *_ in _options(TrainConfig)]
    groups = {name.split(".")[0] for name in names if "." in name}
    given = []
    for key, value in content.items():
        given += [f"{key}.{inner}" for inner in value] if key in groups and isinstance(value, dict) else [str(key)]
    for key in given:
        if key not in names:
            raise ValueError(f"{where}: {unknown_key(key, names)}")


def unknown_key(key: str, names: Sequence[str]) -> str:
    near = [name for name in names if name.endswith(f".{key}")] or difflib.get_close_matches(key, names, n=3)
    group = key.split(".")[0] + "."
    allowed = near or [name for name in names if name.startswith(group)] or names
    return f"{key!r} is not a setting; {'did you mean' if near else 'allowed'}: {', '.join(allowed)}"


def _parse_object(content: dict[str, Any]) -> dict[str, Any]:
    from argparse import ArgumentError

    parser = train_parser()
    try:
        return parser.parse_object(content).as_dict()
    except ArgumentError as error:
        raise ValueError(readable(error)) from None


def _build(cls: type, values: dict[str, Any]) -> Any:
    types = typing.get_type_hints(cls)
    chosen = {}
    for item in dataclasses.fields(cls):
        value = values[item.name]
        nested = dataclasses.is_dataclass(types[item.name])
        chosen[item.name] = _build(types[item.name], value) if nested else value
    return cls(**chosen)


def readable(error: Exception) -> str:
    """jsonargparse's message in one line: which setting, what came, what was expected."""
    text = " ".join(str(error).split())
    found = re.search(r'"([\w.]+)":? .*?(?:Got|Given) value: (.*)$', text)
    kinds = {name: kind for name, kind, *_ in _options(TrainConfig)}
    if found is None or found[1] not in kinds:
        return text.replace("Parser key ", "")
    return f"{found[1]}: {found[2]}; expected {_expected(kinds[found[1]])}"


def _expected(kind: Any) -> str:
    """What values a type has, in words."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return "one of " + ", ".join(str(value) for value in parts)
    if origin in (list, tuple):
        example = {str: "[a,b]", float: "[0.5,0.9]"}.get(parts[0], "[240,320]")
        return f"{'a list' if origin is list else 'height and width'} as {example}"
    if origin is not None and origin is not dict:
        return " or ".join(_expected(part) for part in parts)
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    return words.get(kind, "names with values, as {a: 1}")


def _with_lists(arguments: Sequence[str]) -> list[str]:
    """Lists as they are typed, `--image-size 240 320`, `--image-size 240,320`, `--freeze backbone.*`, in brackets."""
    kinds = {name: kind for name, kind, *_ in _options(TrainConfig)}
    groups: list[list[str]] = []  # an option and what is behind it
    for argument in arguments:
        if argument.startswith("--") or not groups:
            groups.append([])
        groups[-1].append(argument)
    return [one for group in groups for one in _in_brackets(group, kinds)]


def _in_brackets(group: list[str], kinds: dict[str, Any]) -> list[str]:
    """An option and what is behind it, which becomes one list where the setting takes one."""
    name, equals, text = group[0].partition("=")
    kind = kinds.get(name.removeprefix("--").replace("-", "_")) if name.startswith("--") else None
    lists = [one for one in (kind, *typing.get_args(kind)) if typing.get_origin(one) in (list, tuple)]
    values, others = ([text], group[1:]) if equals else (group[1:], [])
    if not lists or not values:
        return group
    of_text = str in typing.get_args(lists[0])
    if len(values) == 1 and not of_text and not values[0].startswith("["):
        values = values[0].split(",")
    if len(values) == 1 and (values[0].startswith("[") or lists[0] is not kind):
        return [name, values[0], *others]
    return [name, json.dumps(values) if of_text else f"[{','.join(values)}]", *others]


def read_config(arguments: Sequence[str]) -> TrainConfig:
    """The `TrainConfig` of a command line. ValueError names the setting at fault and what is allowed."""
    from argparse import ArgumentError

    parser = train_parser()
    arguments, parts = take_parts(arguments, CHOICES)
    arguments = [_with_dashes(argument) for argument in _with_lists(arguments)]
    try:
        given = parser.parse_args(arguments, defaults=False).as_dict()
    except ArgumentError as error:
        names = [name for name, *_ in _options(TrainConfig)]
        text = readable(error)
        for marker in ("unrecognized arguments: --", "Option '"):
            if marker in text:
                key = text.split(marker)[1].split()[0].strip("'").split("=")[0].replace("-", "_")
                text = unknown_key(key, names)
        raise ValueError(text) from None
    given.pop("config", None)  # its content is among the settings already
    return settings(with_parts(given, parts))


def settings(given: dict[str, Any]) -> TrainConfig:
    """The `TrainConfig` of settings on top of a recipe (default: that of the model's task) or of the run to resume.

    Beside the settings of `TrainConfig`, `recipe` names a recipe (or YAML file) and `config` a YAML file on top of it.
    """
    given = {key: str(value) if isinstance(value, Path) else value for key, value in given.items()}
    recipe, config = given.pop("recipe", None), given.pop("config", None)
    check_keys(given, "train")
    if config is not None:
        if str(config) in recipe_names() and recipe is None:
            recipe = str(config)
        else:
            content = read_yaml(Path(config))
            check_keys(content, str(config))
            given = merge(content, given)
    chosen = read_recipe(recipe) if recipe else {}
    if given.get("resume"):
        return _resumed(merge(chosen, given))
    config_from_dict(merge(chosen, given), "train")  # what is wrong by itself is told before a model is built
    model, options = given.get("model"), given.get("model_options")
    task = default_recipe(model or chosen.get("model", TrainConfig.model), options or chosen.get("model_options", {}))
    return config_from_dict(merge(merge(read_recipe(task), chosen), given), "train")


def _with_dashes(argument: str) -> str:
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    parts = name.split(".")
    free = parts[0] == "--augment"  # its inner keys are not ours
    parts = [parts[0].replace("_", "-"), *(parts[1:] if free else [part.replace("_", "-") for part in parts[1:]])]
    return ".".join(parts) + equals + value


def _resumed(given: dict[str, Any]) -> TrainConfig:
    """The settings of the run to continue. ValueError when something is given that would make it another run."""
    stored = Path(given.get("out", "")) / "config.yaml"
    if not given.get("out") or not stored.is_file():
        raise ValueError(f"resume: {stored} is not there; give --out the folder of a run that was started before")
    config = config_from_dict(read_yaml(stored), str(stored))
    before = config.to_dict()
    changed = config_from_dict(merge(before | {"stop_after_epochs": None}, given), "train")  # it is of one call
    after = changed.to_dict()
    for key in before:
        if key not in RESUMABLE and before[key] != after[key]:
            raise ValueError(
                f"resume: {key} = {after[key]!r}, but the run in {given['out']} was started with {before[key]!r}. "
                f"Leave it out, or start a new run in another folder from its weights: --weights {given['out']}"
            )
    return changed


def default_recipe(model: str, options: dict[str, Any]) -> str:
    """ "detection" or "segmentation", by the task of the model. ValueError when the model is not known."""
    from vision.models import build_model

    task = build_model(model, 2, **options).task
    return "segmentation" if task == "semantic" else "detection"
