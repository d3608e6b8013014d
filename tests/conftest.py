"""What several test files need: the real data sets (skipped where absent), one thread a worker, and the devices."""

import os
from pathlib import Path

import pytest
import torch

# Real data sets, when someone has them; outside of that the tests that need them skip.
REAL_DATA = Path(os.environ.get("VISION_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # two workers on two cores


@pytest.fixture(scope="session")
def real_data():
    """`real_data("bccd")` is the folder of that data set; the test skips where it is absent."""

    def folder(name: str) -> Path:
        if not (REAL_DATA / name).is_dir():
            pytest.skip(f"the data set {name} is not at {REAL_DATA} (set VISION_TEST_DATA)")
        return REAL_DATA / name

    return folder


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    """Runs the test on the CPU and, where there is one, on the GPU."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device(request.param)
