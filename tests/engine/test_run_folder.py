"""Whose folder may be taken, and what is left of a run that failed before it saved anything."""

import pytest
import torch

from vision.engine import train as train_module
from vision.engine.faults import NonFiniteLoss
from vision.engine.run_folder import check_free, clear_unless_saved


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_a_run_may_follow_a_range_test_and_nothing_else(tmp_path):
    check_free(tmp_path / "absent")
    (tmp_path / "find_lr.svg").touch()
    check_free(tmp_path)
    (tmp_path / "config.yaml").touch()
    with pytest.raises(ValueError, match="exists and is kept as it is"):
        check_free(tmp_path)
    with pytest.raises(ValueError, match="exists and is kept as it is"):
        check_free(tmp_path / "config.yaml")


@pytest.mark.parametrize("saved", ["last.pt", "best.safetensors", "faults", None])
def test_what_was_saved_stays(tmp_path, saved):
    for name in ("config.yaml", "find_lr.json", saved):
        if name:
            (tmp_path / name).touch()
    clear_unless_saved(tmp_path)
    assert names(tmp_path) == ({"config.yaml", "find_lr.json", saved} if saved else {"find_lr.json"})


@pytest.mark.parametrize("error", [RuntimeError, ValueError, KeyboardInterrupt])
def test_a_run_that_fails_at_once_leaves_nothing(tiny, tmp_path, monkeypatch, error):
    def fail(trainer):
        trainer.log.curves(0, {"loss": 1.0})
        raise error("at once")

    monkeypatch.setattr(train_module.Trainer, "run", fail)
    with pytest.raises(error, match="at once"):
        train_module.train(**tiny())
    assert not names(tmp_path)


def test_batches_that_a_failed_run_points_to_stay(tiny, tmp_path, monkeypatch):
    def not_finite(self, batches):
        return {"loss": torch.full((), float("nan"))}

    monkeypatch.setattr(train_module.Trainer, "gradients", not_finite)
    with pytest.raises(NonFiniteLoss, match="faults"):
        train_module.train(**tiny(save_seconds=1000.0))
    assert "faults" in names(tmp_path / "run")
