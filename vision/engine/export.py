"""Networks as ONNX files of a fixed input size: a picture in, results of fixed shapes out, decoding and NMS inside."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vision.engine.inference import preprocess_of, ready_model
from vision.models import VisionModel
from vision.models.segmenter import read_logits
from vision.ops.static_nms import static_detections

__all__ = ["Exported", "export"]


class Exported(nn.Module):
    """What an export computes of images (B, 3, H, W) uint8 RGB of the network's size, by name.

    Of objects boxes (B, N, 4) xyxy in pixels of the image, scores (B, N) falling, labels (B, N), -1 in empty places; of
    instances also masks (B, N, m, m), probabilities within each box. Of semantic maps probabilities (B, C, H, W). N is
    the model's `max_detections`; of each image the best 1000 candidates enter NMS.
    """

    def __init__(self, model: VisionModel, *, score_threshold: float | None = None):
        super().__init__()
        self.model = model
        settings = getattr(model, "settings", model)
        chosen = getattr(settings, "score_threshold", 0.0) if score_threshold is None else score_threshold
        self.options = {
            "score_threshold": max(chosen, 0.0),
            "iou_threshold": getattr(settings, "iou_threshold", 1.0),  # 1: heat maps, whose peaks do not overlap
            "max_detections": getattr(settings, "max_detections", 100),
        }

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        model, outputs = self.model, self.model(images)
        if model.task == "semantic":
            return {"probabilities": read_logits(outputs.logits, model.classes, model.mode)}
        sizes = torch.tensor([images.shape[-2:]]).expand(len(images), -1)
        boxes, scores, labels = static_detections(*model.propose(outputs, sizes), **self.options)
        found = {"boxes": boxes, "scores": scores, "labels": labels}
        if getattr(model, "mask_head", None) is not None:
            found["masks"] = model.masks_at(outputs, boxes, labels.clamp(min=0))
        if hasattr(model, "semantic_probabilities"):
            found["probabilities"] = model.semantic_probabilities(outputs, images.shape[-2:])
        return found


def export(
    model: VisionModel,
    path: str | Path,
    *,
    size: tuple[int, int] | None = None,
    batch_size: int = 1,
    score_threshold: float | None = None,
) -> dict[str, float]:
    """Writes `model` to an ONNX file and returns by output how far ONNX Runtime's results lie from PyTorch's.

    The input is uint8 RGB (batch_size, 3, height, width), `size` or else that of the model's preprocessing; the outputs
    are those of `Exported`. The file's metadata has `task`, `classes` and `preprocess` as JSON. float32, batch norms
    folded. ValueError where the extra `export` is not installed, the file exists, or the size is not known.
    """
    path = Path(path)
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise ValueError(f"export: {package} is not installed; pip install 'vision-suite[export]'")
    if path.suffix != ".onnx":
        raise ValueError(f"export: {path}; an ONNX file is written: give it the suffix .onnx")
    if path.exists():
        raise ValueError(f"export: {path} exists and is kept as it is; choose another file")
    preprocess = preprocess_of(model)
    height, width = size or preprocess.size
    exported = Exported(
        ready_model(model, torch.device("cpu"), "fp32", fuse=False), score_threshold=score_threshold
    ).eval()
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch_size, 3, height, width), dtype=torch.uint8, generator=generator)
    path.parent.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        expected = exported(images)
        torch.onnx.export(
            exported, (images,), path, dynamo=True, external_data=False, verbose=False,
            input_names=["images"], output_names=list(expected),
        )  # fmt: skip
    about = {
        "task": model.task,
        "classes": model.classes.to_dict(),
        "preprocess": preprocess.resized((height, width)).to_dict(),
    }
    _describe(path, about)
    return _differences(path, images, expected)


def _describe(path: Path, content: dict[str, Any]) -> None:
    import onnx

    network = onnx.load(path)
    onnx.helper.set_model_props(network, {name: json.dumps(value) for name, value in content.items()})
    onnx.save(network, path)


def _differences(path: Path, images: Tensor, expected: dict[str, Tensor]) -> dict[str, float]:
    """The largest absolute difference of each output between ONNX Runtime's and what PyTorch gave, `expected`."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = dict(zip(expected, map(torch.from_numpy, session.run(None, {"images": images.numpy()})), strict=True))
    if "boxes" in found:  # of boxes that score alike either may come first
        rows = [torch.cat([one["boxes"], one["labels"].unsqueeze(-1) * 1e5], -1) for one in (found, expected)]
        nearest = torch.cdist(*rows, p=torch.inf).argmin(-1)  # (B, N)
        batch = torch.arange(len(nearest)).unsqueeze(1)
        ranked = ("boxes", "scores", "labels", "masks")
        expected = {name: one[batch, nearest] if name in ranked else one for name, one in expected.items()}
    return {name: _largest(found[name].double() - one.double()) for name, one in expected.items()}


def _largest(values: Tensor) -> float:
    return float(values.abs().max()) if values.numel() else 0.0
