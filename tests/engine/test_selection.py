"""Which weights of a run are kept: by any figure of its validations, whichever way is better, or none is defined."""

import json
import math

import pytest

import vision
from vision.engine import trainer as trainer_module
from vision.engine.checkpoint import load, read_state, read_weights
from vision.engine.config import TrainConfig
from vision.engine.selection import Selection
from vision.engine.selection_figure import figures

NAN = float("nan")


class Found:
    """An evaluation of two kinds of results; `value` is that of segm.AP50 and of the headline."""

    def __init__(self, value, headline=0.5):
        self.value, self.headline = value, ("mask_AP", headline)
        self.description = {"split": "val", "images": 3}

    def to_dict(self):
        segm = {"AP50": None if math.isnan(self.value) else self.value, "note": "text", "per_class": {"a.b": {"AP": 1}}}
        return {**self.description, "bbox": {"AP": 0.25, "hd95": "infinity"}, "segm": segm}

    def markdown(self):
        return "# Evaluation\n\n"


def run_with(monkeypatch, tiny, values, **given):
    """A run whose validation after epoch i finds values[i]; its length is that of `values`."""
    left = iter(values)
    monkeypatch.setattr(trainer_module, "validate", lambda *_: next(left))
    return vision.train(**tiny(**{"epochs": len(values), "validate_every": 1, "batch_size": 8, **given}))


def figure_is(monkeypatch, name):
    """`select_by` is taken as it is: the stand-ins above have figures that the tiny model's evaluation has not."""

    def accept(self, config, model, dataset):
        self.name, self.sign, self.analyse = name, 1 if config.select_mode == "max" else -1, False

    monkeypatch.setattr(trainer_module.SelectionFigure, "__init__", accept)


def test_figures_have_dotted_names_and_only_numbers_are_figures():
    found = figures(Found(0.5))
    assert found == {"bbox.AP": 0.25, "bbox.hd95": math.inf, "segm.AP50": 0.5, "segm.per_class.a.b.AP": 1.0}
    assert math.isnan(figures(Found(NAN))["segm.AP50"])


@pytest.mark.parametrize(("mode", "epoch"), [("max", 2), ("min", 3)])
def test_weights_patience_and_plateau_follow_the_chosen_figure(tiny, monkeypatch, mode, epoch):
    figure_is(monkeypatch, "segm.AP50")
    values = [Found(0.4), Found(0.6), Found(0.2), Found(0.5), Found(0.5), Found(0.5)]
    schedule = {"name": "plateau", "patience": 0, "gamma": 0.5, "warmup": 0}
    result = run_with(monkeypatch, tiny, values, select_by="segm.AP50", select_mode=mode, schedule=schedule, patience=2)
    assert (result.metric, result.value) == ("segm.AP50", values[epoch - 1].value)
    assert read_weights(result.weights)[1]["metric"]["segm.AP50"] == result.value
    assert read_weights(result.weights)[1]["metric"]["mask_AP"] == 0.5
    assert result.epochs == epoch + 2  # patience: two validations without a better one
    state = read_state(result.folder / "last.pt")
    assert state["selection"]["epoch"] == epoch
    assert state["schedule"]["drops"] == {"max": 2, "min": 3}[mode]  # each without a better figure, from the second on


def test_undefined_validations_are_passed_over(tiny, monkeypatch, caplog):
    with caplog.at_level("INFO", logger="vision"):
        result = run_with(monkeypatch, tiny, [Found(1, NAN), Found(1, 0.5), Found(1, NAN), Found(1, NAN)], patience=1)
    assert (result.value, result.epochs) == (0.5, 4)  # patience has not waited for those
    assert read_weights(result.weights)[1]["metric"]["epoch"] == 2
    assert "mask_AP undefined (none so far is finite: the latest weights are kept)" in caplog.text
    assert "mask_AP undefined (best 0.5000 after epoch 2)" in caplog.text


def test_a_run_without_any_defined_figure_keeps_its_last_weights_and_says_so(tiny, monkeypatch, caplog):
    with caplog.at_level("WARNING", logger="vision"):
        result = run_with(monkeypatch, tiny, [Found(1, NAN)] * 3)
    assert (result.metric, result.value) == ("mask_AP", None)
    assert read_weights(result.weights)[1]["metric"] == {"epoch": 3, "step": 3, "mask_AP": None, "split": "val"}
    assert "no validation had a finite mask_AP" in (result.folder / "results.md").read_text()
    assert "mask_AP was finite in no validation" in caplog.text
    last = read_state(result.folder / "last.pt")["ema"]
    assert all((value == last[name]).all() for name, value in load(result.weights).state_dict().items())


def test_offer():
    selection = Selection()
    kept = [
        selection.offer(value, "x", epoch, {}, -1) for epoch, value in enumerate([NAN, math.inf, 2.0, 3.0, NAN, 1.0])
    ]
    assert kept == [True, True, True, False, False, True]
    assert (selection.value, selection.epoch, selection.waited) == (1.0, 5, 0)
    selection.offer(1.0, "x", 6, {}, -1)
    assert selection.waited == 1  # no better than before


@pytest.mark.parametrize("name", ["per_class.disc.IoU", "surface.hd95"])
def test_a_figure_of_a_class_and_one_of_the_analysis(tiny, name):
    mode = "min" if name == "surface.hd95" else "max"
    result = vision.train(**tiny(epochs=2, validate_every=1, select_by=name, select_mode=mode))
    assert result.metric == name
    lines = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    assert all(("surface" in line["validation"]) == (name == "surface.hd95") for line in lines)


def test_an_unknown_figure_is_refused_with_those_known_before_training(tiny, tmp_path):
    with pytest.raises(ValueError, match=r"'mIOU' is no figure .*mean mIoU.*per_class\.CLASS\.IoU.*surface\.hd95"):
        vision.train(**tiny(select_by="mIOU"))
    assert not list(tmp_path.iterdir())


def test_settings_that_contradict_each_other():
    with pytest.raises(ValueError, match="name the figure: select_by"):
        TrainConfig(select_mode="min")
    with pytest.raises(ValueError, match="'AP50' needs validations"):
        TrainConfig(select_by="AP50", val_split=None)
