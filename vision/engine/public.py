"""Public checkpoints by name: what the manifest says of them, downloaded, verified, cached, under our models' keys."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import urllib.error
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vision.data.resize import Preprocess
from vision.models import VisionModel, build_model
from vision.structures import ClassMap

__all__ = ["download", "is_backbone", "public_checkpoint", "public_weights", "weights_folders"]

_FROZEN = {"backbone_options": {"norm": "frozen_batch"}}
_MOBILE = {"backbone": "mobilenet_v3_large", **_FROZEN}
# torchvision's name -> our model, its options, and whether the norms of the published file had no epsilon
_TWO_STAGE: dict[str, tuple[str, dict[str, Any], bool]] = {
    "fasterrcnn_resnet50_fpn": ("faster_rcnn", _FROZEN, True),
    "fasterrcnn_resnet50_fpn_v2": ("faster_rcnn", {"recipe": "v2"}, False),
    "fasterrcnn_mobilenet_v3_large_fpn": (
        "faster_rcnn",
        {**_MOBILE, "settings": {"rpn_score_threshold": 0.05}},
        False,
    ),
    "fasterrcnn_mobilenet_v3_large_320_fpn": (
        "faster_rcnn",
        {**_MOBILE, "settings": {"rpn_score_threshold": 0.05, "per_level": 150, "proposals": 150}},
        False,
    ),
    "maskrcnn_resnet50_fpn": ("mask_rcnn", _FROZEN, True),
    "maskrcnn_resnet50_fpn_v2": ("mask_rcnn", {"recipe": "v2"}, False),
}


def weights_folders() -> list[Path]:
    """Where the weights that ship with the package lie: in an installed package, in a checkout."""
    import importlib.resources

    folders = [Path(__file__).parents[2] / "weights"]  # a checkout
    with contextlib.suppress(ModuleNotFoundError, TypeError):  # a checkout has no such package
        folders.append(Path(str(importlib.resources.files("vision.weights"))))
    return [folder for folder in folders if (folder / "manifest.json").is_file()]


@cache
def public_weights() -> dict[str, dict[str, Any]]:
    """The manifest: by name the URL, sha256 prefix, licence, classes, preprocessing and published metrics."""
    folders = weights_folders()
    return json.loads((folders[0] / "manifest.json").read_text()) if folders else {}


def is_backbone(name: str) -> bool:
    """Whether the public checkpoint `name` is a classification network, which only starts a model's backbone."""
    return public_weights()[name]["classes"] == "imagenet"


def download(name: str) -> Path:
    """The file of a public checkpoint, from the cache or else from its URL with a progress bar, its sha256 verified.

    The cache is $VISION_CACHE, by default ~/.cache/vision-suite. ValueError says what was wanted where there is no
    network, or when the file that came, or lies in the cache, is another one.
    """
    entry = public_weights()[name]
    folder = Path(os.environ.get("VISION_CACHE", Path.home() / ".cache" / "vision-suite"))
    file = folder / entry["url"].rsplit("/", 1)[1]
    if file.is_file():
        with open(file, "rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
        if not found.startswith(entry["sha256"]):
            raise ValueError(
                f"weights {name}: {file} is not the expected file, or not the whole of it (its sha256 begins with "
                f"{found[:8]}, expected {entry['sha256']}); delete it and try again"
            )
        return file
    folder.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(entry["url"], str(file), hash_prefix=entry["sha256"])
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise ValueError(
            f"weights {name}: {entry['url']} could not be downloaded ({error}). Without a network, put that file "
            f"into {folder} by hand"
        ) from None
    except RuntimeError as error:  # a wrong hash; the partial file is gone
        raise ValueError(f"weights {name}: {entry['url']} is not the expected file ({error})") from None
    return file


def public_checkpoint(name: str, state: dict[str, Tensor] | None = None) -> tuple[VisionModel, dict[str, Any]]:
    """(our model with the weights, header as in our checkpoints) of a public checkpoint.

    `state` is its content where it is at hand; otherwise it is downloaded. Loading is strict. ValueError for a
    classification network.
    """
    entry = public_weights()[name]
    if is_backbone(name):
        raise ValueError(f"weights {name}: a classification network, which only starts the backbone of a model")
    if state is None:
        state = torch.load(download(name), map_location="cpu", weights_only=True)
    model = _model(entry, _classes(entry), state)
    header = {
        "model": model.arguments,
        "classes": model.classes.to_dict(),
        "preprocess": Preprocess(**entry["preprocess"]).to_dict(),
        "metric": entry["published"],
    }
    return model, header


def _classes(entry: dict[str, Any]) -> ClassMap:
    """COCO's 80 classes with their ids, or VOC's 20 and the background, as torchvision names them."""
    if entry["classes"] == "coco":
        from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights as Weights

        names = enumerate(Weights.DEFAULT.meta["categories"])
        kept = [(i, name) for i, name in names if name not in ("__background__", "N/A")]
        return ClassMap(tuple(name for _, name in kept), tuple(i for i, _ in kept))
    from torchvision.models.segmentation import FCN_ResNet50_Weights as Weights

    return ClassMap(tuple(name.strip("_") for name in Weights.DEFAULT.meta["categories"]))


def _model(entry: dict[str, Any], classes: ClassMap, state: dict[str, Tensor]) -> VisionModel:
    from vision.pretrained.dense import DENSE_CONVERTERS, load_dense_state
    from vision.pretrained.segmentation import load_segmentation_state
    from vision.pretrained.torchvision_two_stage import load_two_stage_state

    foreign = entry["source"].partition(":")[2]
    if entry["classes"] == "voc":
        return load_segmentation_state(entry["source"], classes, state)
    if foreign in DENSE_CONVERTERS:
        model = build_model(DENSE_CONVERTERS[foreign][0], classes)
        load_dense_state(model, foreign, state, classes.ids, zero_epsilon=foreign == "retinanet_resnet50_fpn")
        return model
    ours, options, zero_epsilon = _TWO_STAGE[foreign]
    model = build_model(ours, classes, **options)
    load_two_stage_state(model, state, classes.ids, zero_epsilon=zero_epsilon)
    return model
