"""Every model, small: what the tests of all models or of each family build."""

import importlib
import inspect

import torch

from vision.models import MODELS, build_model

TINY_YOLO = {"depth": 0.3, "width": 0.03}
NARROW = {"backbone_options": {"width": 0.25}}
TINY_PYRAMID = {"backbone": "resnet18", "width": 64, "depth": 1, **NARROW}
FEW_REGIONS = {"per_level": 20, "proposals": 16, "train_per_level": 20, "train_proposals": 16, "roi_batch": 16}
TINY_RCNN = {"backbone": "resnet18", "width": 16, "hidden": 16, "settings": FEW_REGIONS, **NARROW}

# name -> options that make it small; the classes are 3, the images about 64 px
SMALL = {
    "deeplab_v1": {"backbone": "resnet18", "hidden": 16, "backbone_options": {"width": 0.25}},
    "deeplab_v2": {"backbone": "resnet18", "backbone_options": {"width": 0.25}},
    "deeplab_v3": {"backbone": "resnet18", "width": 16, "auxiliary": 0.4, "backbone_options": {"width": 0.25}},
    "deeplab_v3_plus": {"backbone": "resnet18", "width": 16, "backbone_options": {"width": 0.25}},
    "encnet": {"backbone": "resnet18", "width": 16, "auxiliary": 0.2, "backbone_options": {"width": 0.25}},
    "fastfcn": {"backbone": "resnet18", "width": 16, "auxiliary": 0.4, "backbone_options": {"width": 0.25}},
    "fcn": {"backbone": "resnet18", "auxiliary": 0.4, "backbone_options": {"width": 0.25}},
    "fcn_8s": {"backbone": "resnet18", "hidden": 16},
    "fcn_16s": {"backbone": "resnet18", "hidden": 0},
    "fcn_32s": {"backbone": "resnet18", "hidden": 16},
    "lraspp": {"backbone": "resnet18", "width": 16, "backbone_options": {"width": 0.25}},
    "pspnet": {"backbone": "resnet18", "width": 16, "auxiliary": 0.4, "backbone_options": {"width": 0.25}},
    "segformer": {"backbone": "resnet18", "width": 16, "backbone_options": {"width": 0.25}},
    "semantic_fpn": {"backbone": "resnet18", "width": 32, "pyramid": 16, "backbone_options": {"width": 0.25}},
    "unet": {"width": 4},
    "unet_plus_plus": {"width": 4},
    "retinanet_resnet18_fpn": TINY_PYRAMID,
    "retinanet_resnet50_fpn": TINY_PYRAMID,
    "retinanet_resnet50_fpn_v2": TINY_PYRAMID,
    "retinanet_resnet101_fpn": TINY_PYRAMID,
    "fcos_resnet18_fpn": TINY_PYRAMID,
    "fcos_resnet50_fpn": TINY_PYRAMID,
    "fcos_resnet101_fpn": TINY_PYRAMID,
    "ssd300_vgg16": {"width": 0.0625},
    "ssd512_vgg16": {"width": 0.0625},
    "ssdlite320_mobilenet_v2": {"width": 0.25},
    "ssdlite320_mobilenet_v3_large": {"width": 0.25},
    "ssdlite320_mobilenet_v3_small": {"width": 0.25},
    "centernet_mobilenet_v2": {"channels": (16, 16, 16), "width": 16, **NARROW},
    "centernet_resnet18": {"channels": (16, 16, 16), "width": 16, "deformable": True, **NARROW},
    "centernet_resnet50": {"backbone": "resnet18", "channels": (16, 16, 16), "width": 16, **NARROW},
    "centernet_resnet101": {"backbone": "resnet18", "channels": (16, 16, 16), "width": 16, **NARROW},
    "faster_rcnn": TINY_RCNN,
    "fast_rcnn": TINY_RCNN,
    "faster_rcnn_c4": {"backbone": "resnet18", "settings": {**FEW_REGIONS, "proposals": 8, "roi_batch": 8}},
    "mask_rcnn": {"recipe": "v2", **TINY_RCNN},
    "cascade_rcnn": TINY_RCNN,
    "cascade_mask_rcnn": TINY_RCNN,
    "panoptic_fpn": TINY_RCNN,
    "multi_task": {"sharing": "soft", "pull": 0.01, "backbone": "resnet18", "width": 64, "depth": 1, **NARROW},
    "yolo_n": TINY_YOLO,
    "yolo_s": TINY_YOLO,
    "yolo_m": TINY_YOLO,
    "yolo_l": TINY_YOLO,
    "yolo_x": TINY_YOLO,
}
# differ from another model in nothing but their size, which is small here
OTHER_SIZES = {
    "retinanet_resnet50_fpn_v2", "retinanet_resnet101_fpn", "fcos_resnet50_fpn", "fcos_resnet101_fpn",
    "centernet_resnet101", "yolo_s", "yolo_m", "yolo_l", "yolo_x",
}  # fmt: skip
DISTINCT = [name for name in SMALL if name not in OTHER_SIZES]


def small_model(name, classes=3, **options):
    """A fresh small model with seeded weights, in training mode."""
    torch.manual_seed(0)
    return build_model(name, classes, **{**SMALL[name], **options})


def options_of(name):
    """The names of the options that the builder of the model `name` takes."""
    module, function = MODELS[name].split(":")
    return set(inspect.signature(getattr(importlib.import_module(module), function)).parameters)
