"""What `predict` writes beside the pictures: boxes, class maps, panoptic segments and class probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vision.engine.inference import Inference
from vision.engine.output import JsonList, coco_results, write_class_map, write_layers
from vision.engine.panoptic import PanopticInference, PanopticWriter
from vision.structures import ClassMap

if TYPE_CHECKING:
    from vision.engine.predict import Prediction

__all__ = ["PredictionFiles"]


class PredictionFiles:
    """predictions.json of detections; of single images masks/NAME.png, or panoptic.json and panoptic/NAME.png, of
    multi-label models layers/NAME/CLASS.png, and scores/NAME.npy where they are asked for."""

    folders = ("masks", "layers", "panoptic", "scores")

    def __init__(self, folder: Path, inference: Inference, scores: bool):
        self.masks = folder / "masks"
        self.layers = folder / "layers" if inference.multilabel else None
        self.scores = folder / "scores" if scores else None
        self.list = None if inference.task == "semantic" else JsonList(folder / "predictions.json")
        self.names = _Names(inference.classes)
        panoptic = isinstance(inference, PanopticInference)
        self.panoptic = PanopticWriter(folder, self.names) if panoptic else None
        self.counts = {} if self.list is None else {"objects": 0}

    def add(self, prediction: Prediction, name: str, *, alone: bool) -> None:
        """Adds what was found in the picture `name`; not `alone`: in a frame of the video `name`."""
        if prediction.detections is not None:
            self.counts["objects"] += len(prediction.detections)
            rows = coco_results(prediction.detections, prediction.classes, name)
            names = [prediction.classes.names[label] for label in prediction.detections.labels.tolist()]
            place = {"file_name": name, "frame": prediction.frame}
            self.list.extend([{**row, "category_name": one, **place} for row, one in zip(rows, names)])
        if not alone:
            return
        if prediction.panoptic is not None:
            self.names.append(name)
            self.panoptic.add(len(self.names) - 1, prediction.panoptic)
        elif prediction.segmentation is not None:
            path = (self.masks / name).with_suffix(".png")
            write_class_map(path, prediction.segmentation.labels, prediction.classes)
            if self.layers is not None:
                write_layers((self.layers / name).with_suffix(""), prediction.segmentation.layers, prediction.classes)
        if self.scores is not None:
            path = (self.scores / name).with_suffix(".npy")
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, prediction.segmentation.scores.half().cpu().numpy())

    def __enter__(self) -> PredictionFiles:
        return self

    def __exit__(self, *error: Any) -> None:
        if self.list is not None:
            self.list.__exit__(*error)
        if self.panoptic is not None:
            self.panoptic.close()


class _Names(list[str]):
    """The pictures that were looked at, in the place of a data set for the writer of panoptic files."""

    def __init__(self, classes: ClassMap):
        super().__init__()
        self.classes = classes

    def image_path(self, index: int) -> Path:
        """Sub-folders become part of the name: all panoptic PNGs lie in one folder."""
        return Path("_".join(Path(self[index]).parts))

    def image_id(self, index: int) -> str:
        return self[index]
