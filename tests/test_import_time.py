"""Importing costs little: `import vision` no more than torchvision, help nothing of either."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "torchvision", "cv2", "numpy", "accelerate", "albumentations", "tensorboard", "pycocotools", "scipy")


def loaded(statement):
    """Which of HEAVY are imported after `statement` in a new process."""
    code = f"import sys; {statement}; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    return set(subprocess.check_output([sys.executable, "-c", code], text=True).splitlines()[-1].split())


def test_import_vision_costs_little_more_than_torchvision():
    code = (
        "import time, torchvision; start = time.process_time(); import vision, vision.models, vision.structures; "
        "print(time.process_time() - start)"
    )
    assert float(subprocess.check_output([sys.executable, "-c", code])) <= 0.3


@pytest.mark.parametrize("command", ["", "'train'", "'evaluate'", "'predict'", "'check'"])
def test_help_imports_nothing_heavy(command):
    statement = (
        f"from vision.cli import main\ntry: main([{command}{',' if command else ''} '--help'])\nexcept SystemExit: 0\n"
    )
    assert loaded(f"exec({statement!r})") == set()


def test_import_vision_imports_nothing_heavy():
    assert loaded("import vision") == set()


def test_everything_declared_is_there():
    import vision

    for name in vision.__all__:
        assert getattr(vision, name) is not None
