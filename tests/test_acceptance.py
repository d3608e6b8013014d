"""Learning real data from scratch: what the README promises. Slow; needs the data sets."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

import vision
from vision.engine.device import choose_precision
from vision.engine.evaluate import evaluate
from vision.engine.train import train

pytestmark = pytest.mark.slow
TOOLS = Path(__file__).parents[1] / "tools"


@pytest.fixture(scope="module")
def acceptance():
    sys.path.insert(0, str(TOOLS))
    spec = importlib.util.spec_from_file_location("acceptance", TOOLS / "acceptance.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["acceptance"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(
    choose_precision("auto", torch.device("cpu")) == "fp32",
    reason="the budgets are CPU seconds of a processor with matrix units for bf16 (AMX)",
)
@pytest.mark.parametrize("name", ["bccd", "camvid_unet", "camvid_deeplab", "membrane"])
def test_reaches_its_scores_within_the_budget(name, acceptance, real_data, tmp_path):
    run = acceptance.RUNS[name]
    reached = acceptance.run_once(run, real_data(run.data).parent, tmp_path)
    assert {metric: reached[metric] for metric in run.wanted if reached[metric] < run.wanted[metric]} == {}


@pytest.fixture
def eight_images(real_data, tmp_path):
    """A COCO data set of the eight first images of coco256 that have objects."""
    content = json.loads((real_data("coco256") / "annotations" / "instances_train2017.json").read_text())
    with_objects = {row["image_id"] for row in content["annotations"] if not row["iscrowd"]}
    content["images"] = [image for image in content["images"] if image["id"] in with_objects][:8]
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [row for row in content["annotations"] if row["image_id"] in kept]
    folder = tmp_path / "eight"
    (folder / "annotations").mkdir(parents=True)
    (folder / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
    (folder / "images").symlink_to(real_data("coco256") / "images")
    return folder / "annotations" / "instances_train2017.json"


def overfit(data, out, **settings):
    """The metrics on the eight images that a model was trained on, without augmentation."""
    plain = {"scale": (1.0, 1.0), "aspect": 1.0, "mosaic": 0.0, "hue": 0.0, "saturation": 0.0, "brightness": 0.0}
    plain |= {"contrast": 0.0, "copy_paste": 0.0}
    result = train(
        data=str(data), out=str(out), val_split=None, batch_size=8, augment=plain, **{"ema": {"decay": 0.0}, **settings}
    )
    model = vision.load(result.weights)
    dataset = vision.open_dataset(str(data), "train", task=model.task)
    return evaluate(model, dataset, progress=False).to_dict()


def test_yolo_overfits_eight_images(eight_images, tmp_path):
    metrics = overfit(eight_images, tmp_path / "run", model="yolo_n", image_size=320, epochs=250)
    assert metrics["AP50"] >= 0.95


def test_both_forms_of_coco256_have_the_same_objects_and_train(real_data, tmp_path):
    folder, seen = real_data("coco256"), []
    for number, data in enumerate((folder / "annotations" / "instances_train2017.json", folder / "data.yaml")):
        dataset = vision.open_dataset(str(data), "train", task="detection")
        seen.append([dataset.target(index) for index in range(len(dataset))])
        result = train(
            model="yolo_n", data=str(data), out=str(tmp_path / str(number)), image_size=160, epochs=1, val_split=None
        )
        assert result.steps == 6  # 100 images, batches of 16
    for first, second in zip(*seen):
        plain = first.select(~first.crowd)  # YOLO's files have no crowds
        assert plain.labels.tolist() == second.labels.tolist()
        torch.testing.assert_close(torch.from_numpy(plain.boxes), torch.from_numpy(second.boxes), atol=0.01, rtol=0)
