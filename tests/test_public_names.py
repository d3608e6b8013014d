"""Every module says what is public, and what it says is there."""

import importlib
import pkgutil

import pytest

import vision

MODULES = sorted(module.name for module in pkgutil.walk_packages(vision.__path__, "vision."))


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith(("__main__", ".recipes"))])
def test_all_is_declared_and_true(name):
    module = importlib.import_module(name)
    if not module.__dict__.get("__path__"):  # rooms may be empty; modules are not
        assert hasattr(module, "__all__"), f"{name} declares no __all__"
    missing = [entry for entry in getattr(module, "__all__", ()) if not hasattr(module, entry)]
    assert not missing


@pytest.mark.parametrize("name", vision.__all__)
def test_top_level_names(name):
    assert getattr(vision, name) is not None


def test_unknown_top_level_name():
    with pytest.raises(AttributeError, match="no attribute 'detect'"):
        vision.detect  # noqa: B018
