"""The study of losses prints a row a loss."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "study_losses.py"


@pytest.mark.slow
def test_table_of_the_study(tmp_path):
    command = [
        sys.executable, SCRIPT, "--data", "shapes=shapes:count=8,size=64,seed=0", "--epochs", "2",
        "--image-size", "64", "64", "--model-options", '{"width": 8, "depth": 2}',
        "--losses", "Dice", "ce + Dice + boundary", "--out", tmp_path / "study",
    ]  # fmt: skip
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [line for line in output.splitlines() if line.startswith("| ") and not line.startswith("| loss")]
    assert [row.split(" | ")[0] for row in rows] == ["| Dice", "| ce + Dice + boundary"]
    assert 0 <= float(rows[0].split(" | ")[1]) <= 1
