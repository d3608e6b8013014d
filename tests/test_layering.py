"""Imports inside the package run one way only, top to bottom of ORDER."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "vision"
# a room may import itself and the rooms above it
ORDER = [
    "structures", "ops", "losses", "layers", "backbones", "necks", "heads", "models", "metrics", "pretrained", "data",
    "media", "engine", "recipes", "arguments", "cli",
]  # fmt: skip


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_rooms(tree: ast.AST) -> set[str]:
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "vision":
            names += [f"vision.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
    return {name.split(".")[1] for name in names if name.startswith("vision.")} & set(ORDER)


FILES = sorted(path for path in ROOT.rglob("*.py") if path.name != "__init__.py" or path.parent != ROOT)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    room = room_of(path)
    assert room in ORDER, f"{path} lies in a room that ORDER does not name"
    upward = {other for other in imported_rooms(ast.parse(path.read_text())) if ORDER.index(other) > ORDER.index(room)}
    assert not upward, f"{path} imports {sorted(upward)}, which lie below {room!r} in ORDER"


def test_no_drawers_of_odds_and_ends():
    forbidden = {"utils", "misc", "common", "helpers", "util", "helper"}
    assert not [path for path in ROOT.rglob("*") if path.stem in forbidden]
