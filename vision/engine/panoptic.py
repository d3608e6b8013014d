"""Panoptic results: put together at the source's resolution, beside their truth, and as COCO's PNGs and JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from vision.data.resize import restore_segmentation
from vision.engine.inference import Inference
from vision.engine.output import DistinctNames, write_json
from vision.metrics import PanopticMap, panoptic_map
from vision.ops.panoptic import merge_panoptic
from vision.structures import ClassMap, Detections, Geometry

__all__ = ["PanopticFound", "PanopticInference", "PanopticWriter", "panoptic_truth"]


class PanopticFound(NamedTuple):
    """What a panoptic model finds in one image: its instances, and the segments that no two of share a pixel."""

    detections: Detections
    segments: PanopticMap


class PanopticInference(Inference):
    """Inference of a panoptic model whose results are `PanopticFound` rather than the instances alone.

    Instances and class scores are brought to the source's resolution first and put together there.
    """

    def _decode(self, outputs: Any, sizes: Tensor, geometry: Geometry) -> list[PanopticFound]:
        instances = super()._decode(outputs, sizes, geometry)
        things = torch.tensor(self.classes.things, device=self.device)
        results = []
        for i, (detections, semantic) in enumerate(zip(instances, self.model.decode_semantic(outputs, sizes))):
            pixels = merge_panoptic(
                detections, restore_segmentation(semantic, geometry, i, scores=False).labels, things
            )
            results.append(
                PanopticFound(detections, panoptic_map(pixels.labels, pixels.instances, self.classes.ignore))
            )
        return results


def panoptic_truth(dataset: Any, index: int) -> PanopticMap:
    """The annotated segments of an image, things, stuff and crowds."""
    ids, segment_ids, labels, crowd = map(torch.from_numpy, dataset.panoptic(index))
    return PanopticMap(ids, segment_ids, labels, crowd)


class PanopticWriter:
    """Segments as they come: panoptic/NAME.png, segment id = R + 256 G + 65536 B; at the end panoptic.json."""

    def __init__(self, folder: Path, dataset: Any):
        self.dataset, self.path = dataset, folder / "panoptic.json"
        self.pictures = folder / "panoptic"
        self.pictures.mkdir()
        self.annotations: list[dict] = []
        self._distinct = DistinctNames()

    def add(self, index: int, segments: PanopticMap) -> None:
        ids = segments.ids.cpu().numpy()
        path = self.pictures / self._distinct(Path(self.dataset.image_path(index)).name).with_suffix(".png")
        blue_green_red = np.stack([ids >> 16 & 255, ids >> 8 & 255, ids & 255], -1).astype(np.uint8)
        if not cv2.imwrite(str(path), blue_green_red):
            raise OSError(f"could not write {path}")
        rows = segment_rows(segments, self.dataset.classes)
        image_id = self.dataset.image_id(index)
        self.annotations.append({"image_id": image_id, "file_name": path.name, "segments_info": rows})

    def close(self) -> None:
        classes = self.dataset.classes
        columns = zip(classes.ids, classes.names, classes.things)
        categories = [{"id": i, "name": name, "isthing": int(thing)} for i, name, thing in columns]
        write_json(self.path, {"annotations": self.annotations, "categories": categories})


def segment_rows(segments: PanopticMap, classes: ClassMap) -> list[dict]:
    """`segments_info` of COCO's panoptic files: id, category_id, area, bbox (x, y, width, height), iscrowd."""
    ids = segments.ids.cpu().numpy()
    rows = []
    for number, label in zip(segments.segment_ids.tolist(), segments.labels.tolist()):
        y, x = np.nonzero(ids == number)
        left, top = int(x.min()), int(y.min())
        box = [left, top, int(x.max()) + 1 - left, int(y.max()) + 1 - top]
        rows.append({"id": number, "category_id": classes.ids[label], "area": len(x), "bbox": box, "iscrowd": 0})
    return rows
