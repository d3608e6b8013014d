"""The segmentation recipes: headers, models, and 20 steps of each on generated images of as many classes."""

import math
from pathlib import Path

import cv2
import numpy as np
import pytest

import vision.recipes
from vision.data.card import built_in_cards, read_card
from vision.engine.options import read_recipe, recipe_names
from vision.engine.train import train
from vision.models import build_model

SEGMENTATION = [
    name
    for name in recipe_names()
    if read_recipe(name).get("model", "yolo").startswith(("unet", "deeplab", "pspnet", "fastfcn"))
]
PAPERS = {"voc_deeplab": 21, "cityscapes_pspnet": 19, "ade20k_fastfcn": 150, "camvid_full": 11}
CLASSES = {**PAPERS, "membrane": 2, "shapes_segmentation": 6}  # the others are CamVid's
# what makes each model small; the recipe's own options stay beside it
LIGHT = {"width": 16, "backbone_options": {"width": 0.125}}
SMALL = {"deeplab_v3_plus": LIGHT, "pspnet": LIGHT, "fastfcn": LIGHT}


def small_options(recipe):
    options = dict(recipe.get("model_options", {}))
    for key, value in SMALL.get(recipe["model"], {}).items():
        options[key] = {**options.get(key, {}), **value} if isinstance(value, dict) else value
    return options


def drawn(folder, classes, count=40, size=(64, 96)):
    """`count` pairs of images and masks of random blocks of 16 pixels; between them the masks have every class."""
    random = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    for number in range(count):
        blocks = random.integers(0, classes, (size[0] // 16, size[1] // 16)).astype(np.uint8)
        mask = np.kron(blocks, np.ones((16, 16), np.uint8))
        cv2.imwrite(str(folder / "images" / f"{number}.png"), np.stack([mask, 255 - mask, mask // 2], -1))
        cv2.imwrite(str(folder / "masks" / f"{number}.png"), mask)
    pairs = (f"images/{number}.png masks/{number}.png\n" for number in range(count))
    (folder / "train.txt").write_text("".join(pairs))
    (folder / "classes.txt").write_text("".join(f"class{number}\n" for number in range(classes)))
    return folder


def test_the_recipes_of_the_papers_are_there():
    assert {*PAPERS, "camvid", "camvid_deeplab", "camvid_short", "membrane"} <= set(SEGMENTATION)


@pytest.mark.parametrize("name", PAPERS)
def test_recipe_says_where_it_comes_from(name):
    header = (Path(vision.recipes.__file__).parent / f"{name}.yaml").read_text().split("model:")[0]
    for word in ("arXiv:", "# command:", "# hardware:", "# expected:", "mIoU"):
        assert word in header


@pytest.mark.slow
@pytest.mark.parametrize("name", SEGMENTATION)
def test_recipe_starts(name, tmp_path):
    recipe = read_recipe(name)
    result = train(
        recipe=name, data=str(drawn(tmp_path / "data", CLASSES.get(name, 11))), train_split="train", val_split=None,
        threads=1, out=str(tmp_path / "run"), epochs=1, batch_size=2, image_size=[64, 96],
        model_options=small_options(recipe),
    )  # fmt: skip
    assert result.steps == 20
    assert math.isfinite(result.cpu_seconds)
    assert len(vision.load(result.weights).classes) == CLASSES.get(name, 11)


def test_recipes_train_on_splits_that_their_cards_have():
    assert read_recipe("voc_deeplab")["train_split"] == "trainaug"
    card = read_card(built_in_cards()["voc2012"], Path())
    assert card.splits["trainaug"]["segmentation_masks"] == "SegmentationClassAug"


@pytest.mark.parametrize("name", ["cityscapes_pspnet", "ade20k_fastfcn"])
def test_recipes_of_several_gpus_share_their_statistics(name):
    assert read_recipe(name)["model_options"]["norms"] == "sync_batch"


@pytest.mark.parametrize("name", [name for name in SEGMENTATION if "101" not in str(read_recipe(name))])
def test_recipe_builds_its_model(name):
    recipe = read_recipe(name)
    classes = CLASSES.get(name, 11)  # as many as there are class weights
    model = build_model(recipe["model"], classes, **recipe.get("model_options", {}), loss=recipe.get("loss", "ce"))
    assert model.task == "semantic"
