"""The study of losses prints a row a loss."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "study_losses.py"


@pytest.mark.slow
def test_table_of_the_study(tmp_path):
    command = [
        sys.executable, SCRIPT, "--data", "shapes:count=8,size=64,seed=0", "--epochs", "2", "--again", "1",
        "--image-size", "64", "64", "--model-options", '{"width": 8, "depth": 2}',
        "--losses", "Dice", "cross-entropy + Dice + boundary", "--out", tmp_path / "study",
    ]  # fmt: skip
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [line for line in output.splitlines() if line.startswith("| ") and not line.startswith("| loss")]
    assert [row.split(" | ")[0] for row in rows] == ["| Dice", "| Dice (seed 1)", "| cross-entropy + Dice + boundary"]
    scores = [row.split(" | ")[1:4] for row in rows]
    assert all(0 <= float(score[0]) <= 1 for score in scores)
    assert scores[0] != scores[1]
