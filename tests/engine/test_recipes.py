"""The segmentation recipes start: 20 steps on small generated images."""

import math

import pytest

from vision.engine.options import read_recipe, recipe_names
from vision.engine.train import train
from vision.models import build_model

SEGMENTATION = [
    name
    for name in recipe_names()
    if read_recipe(name).get("model", "yolo").startswith(("unet", "deeplab", "psp", "fast"))
]


def test_the_recipes_of_the_papers_are_there():
    assert {"voc_deeplab", "cityscapes_pspnet", "ade20k_fastfcn", "camvid", "camvid_full", "membrane"} <= set(
        SEGMENTATION
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", SEGMENTATION)
def test_recipe_starts(name, tmp_path):
    recipe = read_recipe(name)
    loss = recipe.get("loss", "ce")
    if isinstance(loss, dict):  # its class weights are those of another data set
        loss = dict.fromkeys(loss, 1.0)
    result = train(
        recipe=name,
        data="shapes:count=40,size=96,seed=0",
        out=str(tmp_path / "run"),
        epochs=1,
        image_size=[64, 96],
        batch_size=2,
        loss=loss,
        val_split=None,
    )
    assert result.steps == 20
    assert math.isfinite(result.cpu_seconds)


@pytest.mark.parametrize("name", [name for name in SEGMENTATION if "101" not in str(read_recipe(name))])
def test_recipe_builds_its_model(name):
    recipe = read_recipe(name)
    classes = 6 if name.startswith("shapes") else 11  # as many as there are class weights
    model = build_model(recipe["model"], classes, **recipe.get("model_options", {}), loss=recipe.get("loss", "ce"))
    assert model.task == "semantic"
