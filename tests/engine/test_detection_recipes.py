"""The detection recipes of the papers: their settings are valid, and each starts: 20 steps on small real images."""

import re
from pathlib import Path

import pytest
import torch
import torchvision

import vision.recipes
from vision.engine.options import config_from_dict, read_recipe, recipe_names
from vision.engine.public import public_weights
from vision.engine.train import train
from vision.models import MODELS, build_model
from vision.pretrained.torchvision_backbones import start_backbones

RECIPES = [name for name in recipe_names() if name.startswith(("coco_", "voc_")) and name != "voc_deeplab"]
RECIPES.append("multi_task")
PANOPTIC = {"coco_panoptic_fpn", "multi_task"}
FOLDER = Path(vision.recipes.__file__).parent
NARROW = {"backbone_options": {"width": 0.25}}
FEW_REGIONS = {"train_per_level": 50, "train_proposals": 40, "roi_batch": 16}
REGIONS = {"width": 16, "hidden": 16, "settings": FEW_REGIONS, **NARROW}
# what makes each model small; the recipe's own options stay beside it
SMALL = {
    "retinanet_resnet50_fpn": {"width": 64, "depth": 1, **NARROW},
    "fcos_resnet50_fpn": {"width": 64, "depth": 1, **NARROW},
    "faster_rcnn": REGIONS,
    "mask_rcnn": REGIONS,
    "cascade_rcnn": REGIONS,
    "faster_rcnn_c4": {"backbone": "resnet18", "settings": FEW_REGIONS},
    "ssd300_vgg16": {"width": 0.125},
    "ssdlite320_mobilenet_v3_large": {"width": 0.25},
    "centernet_resnet18": {"channels": [16, 16, 16], "width": 16, **NARROW},
    "yolo_s": {"width": 0.125},
    "panoptic_fpn": REGIONS,
    "multi_task": {"width": 64, "depth": 1, **NARROW},
}


def small_options(recipe):
    """The recipe's model options with those that make the model small, one level of groups merged."""
    options = dict(recipe.get("model_options", {}))
    for key, value in SMALL[recipe["model"]].items():
        options[key] = {**options.get(key, {}), **value} if isinstance(value, dict) else value
    return options


def test_every_family_has_a_recipe_for_coco():
    families = {
        "retinanet",
        "fcos",
        "ssd300",
        "ssdlite",
        "centernet",
        "faster_rcnn",
        "mask_rcnn",
        "cascade_rcnn",
        "panoptic_fpn",
        "yolo",
    }
    assert {f"coco_{family}" for family in families} <= set(RECIPES)
    assert {f"voc_{family}" for family in ("ssd300", "faster_rcnn", "centernet", "yolo")} <= set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_valid_and_says_where_it_comes_from(name):
    recipe = read_recipe(name)
    assert config_from_dict(recipe, name).model in MODELS
    build_model(recipe["model"], 3, **small_options(recipe))
    header = (FOLDER / f"{name}.yaml").read_text().split("model:")[0]
    for word in ("# command:", "# hardware:", "# expected:", "arXiv:"):
        assert word in header


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_recipe_starts(name, real_data, tmp_path):
    recipe, folder = read_recipe(name), real_data("coco256")
    instances = folder / "annotations" / "instances_train2017.json"
    result = train(
        recipe=name, data=str(folder if name in PANOPTIC else instances), train_split="train", val_split=None,
        out=str(tmp_path / "run"), epochs=1, batch_size=5, image_size=[96, 128], threads=1,
        model_options=small_options(recipe), schedule={"warmup": 0},
    )  # fmt: skip
    assert result.steps == 20
    assert result.weights.is_file()


@pytest.mark.parametrize("name", [name for name in RECIPES if "--weights" in (FOLDER / f"{name}.yaml").read_text()])
def test_weights_of_the_command_are_those_of_the_recipes_backbone(name):
    recipe = read_recipe(name)
    (weights,) = re.findall(r"--weights (\S+)", (FOLDER / f"{name}.yaml").read_text())
    network = public_weights()[weights]["source"].removeprefix("torchvision:")
    with torch.device("meta"):
        model = build_model(recipe["model"], 3, **recipe.get("model_options", {}))
        assert start_backbones(model, torchvision.models.get_model(network).state_dict())
