"""The generated data set written as files, in COCO's layout: what `vision convert shapes DST` starts from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from vision.data.segment import encode_mask
from vision.data.shapes import SHAPES, SPLITS, ShapesDataset

__all__ = ["write_generated"]


def write_generated(spec: str, split: str | None, root: Path) -> None:
    """images/SPLIT/*.png and annotations/instances_SPLIT.json of `spec` ("shapes", "shapes:count=..."), of every
    split or of one. ValueError for an unknown split or option."""
    from PIL import Image

    (root / "annotations").mkdir(parents=True, exist_ok=True)
    categories = [{"id": label, "name": name} for label, name in enumerate(SHAPES)]
    for name in [split] if split else SPLITS:
        dataset = ShapesDataset.from_spec(spec, name)
        folder = root / "images" / name
        folder.mkdir(parents=True)
        content: dict[str, list] = {"images": [], "annotations": [], "categories": categories}
        for index in range(len(dataset)):
            sample = dataset.sample(index, masks=True)
            file = dataset.image_path(index).name
            Image.fromarray(sample.image).save(folder / file, compress_level=1)
            height, width = dataset.size(index)
            content["images"].append({"id": index, "file_name": file, "height": height, "width": width})
            for box, label, mask in zip(sample.target.boxes, sample.target.labels, sample.target.masks):
                number = len(content["annotations"]) + 1
                content["annotations"].append({"id": number, "image_id": index, **_annotation(box, label, mask)})
        (root / "annotations" / f"instances_{name}.json").write_text(json.dumps(content), encoding="utf-8")


def _annotation(box: np.ndarray, label: int, mask: np.ndarray) -> dict[str, Any]:
    left, top, right, bottom = box.tolist()
    return {
        "category_id": int(label),
        "bbox": [left, top, right - left, bottom - top],
        "area": int(mask.sum()),
        "iscrowd": 0,
        "segmentation": {"size": list(mask.shape), "counts": encode_mask(mask).decode("ascii")},
    }
