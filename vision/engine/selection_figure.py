"""The figure of a validation that a run is judged by: for its best weights, its patience and the schedule plateau."""

from __future__ import annotations

import difflib
import math
from typing import TYPE_CHECKING, Any

from vision.engine.config import TrainConfig
from vision.engine.log import flat
from vision.models import VisionModel

if TYPE_CHECKING:
    from vision.engine.evaluate import Evaluation

__all__ = ["SelectionFigure", "figures"]


class SelectionFigure:
    """`of(evaluation)`: the figure that `select_by` names, or the headline. `sign`: 1 where larger is better, or -1.

    `analyse`: whether it is one of those that an evaluation makes only when asked to analyse. ValueError lists the
    known figures when `model` on `dataset` has none of that name.
    """

    def __init__(self, config: TrainConfig, model: VisionModel, dataset: Any | None):
        self.name, self.sign, self.analyse = config.select_by, 1 if config.select_mode == "max" else -1, False
        if self.name is None or dataset is None:
            return
        known = _figures_of(model, dataset, analyse=False)
        if self.name not in known:
            self.analyse = True
            known |= _figures_of(model, dataset, analyse=True)
        if self.name not in known:
            near = difflib.get_close_matches(self.name, known, n=3)
            raise ValueError(
                f"select_by = {self.name!r} is no figure of this model's evaluation on {dataset.name}; "
                + (f"did you mean {' or '.join(near)}? There" if near else "there")
                + f" are: {', '.join(_by_any_class(known, dataset.classes.names))}"
            )

    def of(self, evaluation: Evaluation) -> tuple[str, float]:
        """Its name and value; NaN where it is undefined."""
        return evaluation.headline if self.name is None else (self.name, figures(evaluation)[self.name])


def figures(evaluation: Evaluation) -> dict[str, float]:
    """Every number of an evaluation by its dotted name, as per_class.pole.IoU; NaN where it is undefined."""
    results = {key: value for key, value in evaluation.to_dict().items() if key not in evaluation.description}
    found = {name: math.nan if value is None else value for name, value in flat(results, ".").items()}
    found = {name: math.inf if value == "infinity" else value for name, value in found.items()}
    return {name: float(value) for name, value in found.items() if isinstance(value, int | float)}


def _figures_of(model: VisionModel, dataset: Any, *, analyse: bool) -> dict[str, float]:
    """What an evaluation has, from one that looks at no image: a rank beyond the last finds none left."""
    from vision.engine.evaluate import evaluate

    options = {"device": "cpu", "precision": "fp32", "progress": False}
    return figures(evaluate(model, dataset, analyse=analyse, rank=len(dataset), **options))


def _by_any_class(names: dict[str, float], classes: tuple[str, ...]) -> list[str]:
    """The names with CLASS for any class, each once."""
    for label in classes:
        names = {name.replace(f"per_class.{label}.", "per_class.CLASS."): 0.0 for name in names}
    return list(names)
