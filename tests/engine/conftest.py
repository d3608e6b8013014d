"""Runs that are small enough for a test: a tiny U-Net on a few generated images of 32 pixels."""

import pytest
import torch


@pytest.fixture
def tiny(tmp_path):
    """`tiny(name, **settings)`: the settings of a run of seconds in the folder `name`."""

    def make(name="run", **given):
        return {
            "model": "unet",
            "model_options": {"width": 4, "depth": 2},
            "data": "shapes:count=8,size=32",
            "out": str(tmp_path / name),
            "image_size": 32,
            "batch_size": 4,
            "epochs": 4,
            "validate_every": 100,
            "save_seconds": 0,
            "device": "cpu",
            "precision": "fp32",
            "threads": 1,
            **given,
        }

    return make


@pytest.fixture(autouse=True)
def keep_threads():
    """Training sets the number of threads of the process; other tests keep theirs."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
