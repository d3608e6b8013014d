"""Multi-label segmenters on instances that overlap: the layers of classes, their augmentation, and that they learn."""

import json

import cv2
import numpy as np
import pytest
from layouts import coco_content, coco_folder, mask_folder

import vision
from vision.data import open_dataset
from vision.data.augment_config import AugmentConfig
from vision.data.collate import collate_targets
from vision.data.layers import class_layers, class_pixels, learnt_as
from vision.data.loader import build_loader
from vision.data.resize import Preprocess
from vision.data.transforms import build_augmentation
from vision.engine.evaluate import evaluate
from vision.engine.train import train
from vision.structures import Target

PLAIN = {"flip_horizontal": 0.0, "scale": (1.0, 1.0), "aspect": 1.0, "mosaic": 0.0, "hue": 0.0, "saturation": 0.0}


def box(left, top, right, bottom, size=(6, 8)):
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return mask


def target(*objects):
    """Of (label, mask, crowd)."""
    labels, masks, crowd = (np.array(list(part)) for part in zip(*objects))
    return Target(np.array([[0, 0, 8, 6]] * len(objects), np.float32), labels, crowd, masks=masks, size=(6, 8))


def test_classes_overlap_and_a_crowd_hides_nothing_but_its_own_class():
    found = class_layers(
        target((0, box(0, 0, 4, 6), False), (1, box(2, 0, 8, 2), False), (1, box(6, 0, 8, 6), True)), 3
    )
    expected = np.zeros((3, 6, 8), np.uint8)
    expected[0, :, :4] = 1
    expected[1, :, 6:] = 255
    expected[1, :2, 2:] = 1  # the object is known, also where the crowd lies
    np.testing.assert_array_equal(found, expected)
    assert class_layers(target((0, box(0, 0, 1, 1), True)), 256).min() == -1  # as `ClassMap.ignore`


def test_a_batch_of_two_sizes_ignores_its_padding():
    small = Target(masks=np.zeros((0, 4, 8), bool), size=(4, 8))
    semantic = collate_targets([target((1, box(0, 0, 3, 3), False)), small], (6, 8), layers=2).semantic
    assert semantic.shape == (2, 2, 6, 8)
    assert semantic.sum((2, 3)).tolist() == [[0, 9], [16 * 255, 16 * 255]]


def test_class_maps_come_before_instances(tmp_path):
    coco = open_dataset(coco_folder(tmp_path / "coco"), task="multilabel")
    assert learnt_as(coco, "multilabel") == "multilabel" and learnt_as(coco, "instance") == "instance"
    assert coco.classes.names == ("cat", "dog")  # no background
    assert class_pixels(coco, 0).tolist() == [60, 0]  # of the dog there is a crowd alone
    maps = open_dataset(mask_folder(tmp_path / "masks", {"a": np.array([[0, 1], [1, 1]], np.uint8)}), task="multilabel")
    assert maps.tasks == {"semantic"} and learnt_as(maps, "multilabel") == "semantic"
    assert class_pixels(maps, 0).sum() == (maps.semantic(0) != 255).sum()
    generated = open_dataset("shapes:count=2", task="multilabel")
    assert generated.classes.names[0] == "background"


def test_what_a_crop_leaves_of_an_object_stays_in_its_layer(tmp_path):
    # of the cat, columns 4 to 14 of 30, a crop of 20 wide keeps as little as 1/40: detectors would leave it out
    content = coco_content()
    content["annotations"] = content["annotations"][:1]
    dataset = open_dataset(coco_folder(tmp_path, content), task="multilabel")
    preprocess = Preprocess((20, 30), "stretch")
    spec = AugmentConfig(**{**PLAIN, "scale": (4.0, 4.0), "brightness": 0.0, "contrast": 0.0})
    loader = build_loader(
        dataset, preprocess=preprocess, batch_size=2, task="multilabel",
        augmentation=build_augmentation(spec, preprocess, "multilabel"), steps_per_epoch=40,
    )  # fmt: skip
    counts = [int(n) for batch in loader for n in (batch.targets.semantic[:, 0] == 1).sum((1, 2))]
    assert any(0 < n < 0.15 * 60 * 16 for n in counts)
    with pytest.raises(ValueError, match="mixup"):
        build_augmentation(AugmentConfig(mixup=0.5), preprocess, "multilabel")


@pytest.mark.parametrize("augmented", [False, True])
def test_what_is_filled_up_inside_an_image_is_ignored(tmp_path, augmented):
    dataset = open_dataset(coco_folder(tmp_path), task="multilabel")
    preprocess = Preprocess((64, 64), "letterbox")
    spec = AugmentConfig(**{**PLAIN, "scale": (0.5, 0.5), "brightness": 0.0, "contrast": 0.0})
    loader = build_loader(
        dataset, preprocess=preprocess, batch_size=2, task="multilabel",
        augmentation=build_augmentation(spec, preprocess, "multilabel") if augmented else None,
    )  # fmt: skip
    (batch,) = loader
    filled = (batch.images == preprocess.pad).all(1)  # grey, as no pixel of the data is
    ignored = batch.targets.semantic == 255
    assert filled.float().mean() > 0.2
    assert (ignored[:, 0] | ~filled).all()  # no crowd of cats is there
    assert not (ignored[:, 0] & ~filled).sum() > 0.02 * filled.sum()  # but at the edge, where pixels are blended


def overlapping(root, split, count=8):
    """Images of 32x48 with a red rectangle and a blue one over one another; the overlap has both colours."""
    random = np.random.default_rng(len(split))
    content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "red"}, {"id": 2, "name": "blue"}]}
    (root / "images" / split).mkdir(parents=True)
    for number in range(count):
        image = np.zeros((32, 48, 3), np.uint8)
        content["images"].append({"id": number, "file_name": f"{number}.png", "height": 32, "width": 48})
        for category, channel in ((1, 2), (2, 0)):
            left, top = (int(n) for n in random.integers(0, (20, 10)))
            right, bottom = left + 24, top + 20
            image[top:bottom, left:right, channel] = 255
            ring = [left, top, right, top, right, bottom, left, bottom]
            content["annotations"].append(
                {"id": 2 * number + category, "image_id": number, "category_id": category, "segmentation": [ring],
                 "bbox": [left, top, 24, 20], "area": 480, "iscrowd": 0}
            )  # fmt: skip
        cv2.imwrite(str(root / "images" / split / f"{number}.png"), image)
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


def test_a_unet_tells_both_classes_of_a_pixel(tmp_path):
    for split in ("train", "val"):
        overlapping(tmp_path / "data", split)
    result = train(
        model="unet", model_options={"mode": "multilabel", "width": 8, "depth": 1}, data=str(tmp_path / "data"),
        out=str(tmp_path / "run"), image_size=(32, 48), resize="stretch", batch_size=4, epochs=40, validate_every=40,
        optim={"lr": 0.02}, augment=PLAIN, loss={"cross_entropy": {"class_weight": "balanced"}, "dice": 1.0},
        threads=1,
    )  # fmt: skip
    assert result.value > 0.9
    model = vision.load(result.weights)
    dataset = open_dataset(tmp_path / "data", "val", task=model.reads)
    assert class_layers(dataset.target(0, masks=True), 2).sum(0).max() == 2  # they do overlap
    evaluation = evaluate(model, dataset, out=tmp_path / "val", progress=False)
    assert set(evaluation.results["semantic"].to_dict()["per_class"]) == {"red", "blue"}
    assert evaluation.results["semantic"].to_dict()["mIoU"] == pytest.approx(result.value)
    assert len(list((tmp_path / "val" / "masks").iterdir())) == 8
    with pytest.raises(ValueError, match="may overlap"):
        evaluate(model, dataset, analyse=True, progress=False)
