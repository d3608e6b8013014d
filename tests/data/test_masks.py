"""Image and mask pairs: lists and folders, what values mean, and binary masks."""

from pathlib import Path

import numpy as np
import pytest
from layouts import mask_folder, save_image
from PIL import Image

from vision.data import DataError, open_dataset
from vision.data.check import check_dataset


def mask(*values, shape=(6, 8)):
    content = np.zeros(shape, np.uint8)
    content.ravel()[: len(values)] = values
    return content


def test_two_folders_with_names(tmp_path):
    masks = {"a": mask(0, 1, 2, 255), "b": mask(2)}
    dataset = open_dataset(mask_folder(tmp_path, masks, ["sky", "road", "car"]))
    assert (dataset.classes.names, dataset.tasks) == (("sky", "road", "car"), {"semantic"})
    for index, expected in enumerate(masks.values()):
        target = dataset.target(index, semantic=True)
        np.testing.assert_array_equal(target.semantic, expected)
        assert (target.semantic.dtype, len(target)) == (np.uint8, 0)
    assert dataset.label_counts().tolist() == [45 + 47, 1, 2]
    assert dataset.image_labels(0).tolist() == [0, 1, 2]
    assert dataset.problems == []


def test_a_list_of_pairs(tmp_path):
    mask_folder(tmp_path, {"a": mask(1), "b": mask(0, 1)}, ["sky", "road"])
    (tmp_path / "train.txt").write_text("images/b.png masks/b.png\n")
    (tmp_path / "val.txt").write_text("/images/a.png /masks/a.png\n")  # as in SegNet's lists
    assert [open_dataset(tmp_path, split).image_id(0) for split in ("train", "val")] == ["b", "a"]
    (tmp_path / "train.txt").write_text("images/b.png\nimages/a.png masks/a.png more\n")
    with pytest.raises(DataError, match=r"train\.txt, line 2"):
        open_dataset(tmp_path)


def test_split_folders(tmp_path):
    mask_folder(tmp_path, {"a": mask(1)}, split="train")
    mask_folder(tmp_path, {"b": mask(1), "c": mask(1)}, ["x", "y"], split="val")
    assert (len(open_dataset(tmp_path)), len(open_dataset(tmp_path, "val"))) == (1, 2)


def test_a_palette_gives_indices(tmp_path):
    mask_folder(tmp_path, {"a": mask(0, 1, 2)}, ["x", "y", "z"])
    image = Image.fromarray(mask(2, 1, 0, 255))
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tobytes())
    image.save(tmp_path / "masks" / "a.png")
    np.testing.assert_array_equal(open_dataset(tmp_path).semantic(0), mask(2, 1, 0, 255))


@pytest.mark.parametrize("names", [None, ["no", "yes"]])
def test_masks_of_0_and_255_are_binary_and_that_is_noted(tmp_path, names):
    dataset = open_dataset(mask_folder(tmp_path, {"a": mask(255, 255), "b": mask()}, names))
    assert dataset.classes.names == tuple(names or ("background", "foreground"))
    np.testing.assert_array_equal(dataset.semantic(0), mask(1, 1))
    assert [problem.severity for problem in dataset.problems] == ["note"]


def test_255_is_ignored_as_soon_as_there_is_a_1(tmp_path):
    dataset = open_dataset(mask_folder(tmp_path, {"a": mask(255, 1), "b": mask(255)}, ["no", "yes"]))
    np.testing.assert_array_equal(dataset.semantic(0), mask(255, 1))
    assert dataset.problems == []


def test_values_without_names_become_classes(tmp_path):
    dataset = open_dataset(mask_folder(tmp_path, {"a": mask(0, 7, 200), "b": mask(3, 255)}))
    assert dataset.classes.ids == (0, 3, 7, 200)
    np.testing.assert_array_equal(dataset.semantic(0), mask(0, 2, 3))
    np.testing.assert_array_equal(dataset.semantic(1), mask(1, 255))
    assert [problem.severity for problem in dataset.problems] == ["note"]


def test_more_than_255_classes_are_int32_with_minus_1(tmp_path):
    deep = mask().astype(np.uint16)
    deep.ravel()[:5] = [0, 254, 255, 256, 299]
    dataset = open_dataset(mask_folder(tmp_path, {"a": deep}, [f"c{k}" for k in range(300)]))
    # 255 is the id of a class here, so nothing is ignored
    assert dataset.semantic(0).ravel()[:5].tolist() == [0, 254, 255, 256, 299]
    assert dataset.semantic(0).dtype == np.int32


def test_a_value_out_of_range_is_named(tmp_path):
    dataset = open_dataset(mask_folder(tmp_path, {"a": mask(0, 1, 3)}, ["x", "y", "z"]))
    with pytest.raises(DataError, match=r"a\.png: mask value 3; expected 0 to 2, 255"):
        dataset.target(0, semantic=True)
    dataset.target(0)  # nobody asked for the mask


def test_sizes_and_channels_that_do_not_fit(tmp_path):
    mask_folder(tmp_path, {"a": mask(1), "b": np.zeros((6, 8, 3), np.uint8)}, ["x", "y", "z"])
    save_image(tmp_path / "images" / "a.png", (7, 8))
    dataset = open_dataset(tmp_path)
    with pytest.raises(DataError, match=r"a\.png: a mask of 8x6 pixels beside an image of 8x7"):
        dataset.semantic(0)
    with pytest.raises(DataError, match=r"b\.png: a mask of mode RGB"):
        dataset.semantic(1)


def test_missing_masks_and_empty_folders(tmp_path):
    mask_folder(tmp_path, {"a": mask(1), "b": mask(1)}, ["x", "y"])
    (tmp_path / "masks" / "b.png").unlink()
    with pytest.raises(DataError, match=r"mask .*b\.png does not exist"):
        open_dataset(tmp_path)
    for folder in ("images", "masks"):
        for path in (tmp_path / folder).iterdir():
            path.unlink()
    with pytest.raises(DataError, match="an empty data set"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(("name", "counts"), [("camvid", (367, 101)), ("membrane", (24, 6))])
def test_real_masks(real_data, name, counts):
    folder = real_data(name)
    for split, count in zip(("train", "val"), counts):
        dataset = open_dataset(folder, split)
        assert (len(dataset), dataset.problems) == (count, [])
        sample = dataset.sample(count - 1, semantic=True)
        assert sample.image.shape[:2] == sample.target.semantic.shape == dataset.size(count - 1)
    drawn = {"camvid": "valannot/0016E5_08159.png", "membrane": "masks/29.png"}[name]
    assert dataset.image_id(count - 1) == Path(drawn).stem
    np.testing.assert_array_equal(sample.target.semantic, np.array(Image.open(folder / drawn)))


COLOURS = """
name: painted
format: masks
splits: {train: {images: images, masks: masks}}
classes: [sky, road]
colours: {70 130 180: sky, 128 64 128: road, 250 170 160: road, 0 0 0: ignore}
"""


def painted(tmp_path, pixels, card=COLOURS):
    colours = np.zeros((6, 8, 3), np.uint8)
    colours.reshape(-1, 3)[: len(pixels)] = pixels
    mask_folder(tmp_path, {"a": colours})
    (tmp_path / "card.yaml").write_text(card)
    return tmp_path


def test_masks_in_colours(tmp_path):
    pixels = [[70, 130, 180], [128, 64, 128], [250, 170, 160], [0, 0, 0]]
    dataset = open_dataset(painted(tmp_path, pixels))
    assert dataset.classes.names == ("sky", "road")
    expected = np.full(48, 255)
    expected[:4] = [0, 1, 1, 255]
    np.testing.assert_array_equal(dataset.semantic(0).ravel(), expected)
    assert dataset.label_counts().tolist() == [1, 2]
    path = tmp_path / "masks" / "a.png"
    for mode in ("RGBA", "P"):  # the same colours, stored otherwise
        Image.open(path).convert("RGB").convert(mode, palette=Image.Palette.ADAPTIVE).save(path)
        np.testing.assert_array_equal(open_dataset(tmp_path).semantic(0).ravel(), expected)


def test_a_colour_without_a_class_is_named_and_checked(tmp_path):
    folder = painted(tmp_path, [[70, 130, 180], [1, 2, 3], [255, 255, 255]])
    with pytest.raises(DataError, match=r"a\.png: mask colour 1 2 3, 255 255 255; expected 0 0 0, 70 130 180"):
        open_dataset(folder).semantic(0)
    problem = next(problem for problem in check_dataset(folder) if problem.severity == "error")
    assert problem.file.endswith("a.png")
    assert problem.where == "2 colour(s)"
    (folder / "card.yaml").unlink()
    (folder / "classes.txt").write_text("sky\nroad\n")
    with pytest.raises(DataError, match="give the `colours` of the classes in a data set card"):
        open_dataset(folder)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("128 64 128", "128 64", "'128 64'; expected red, green and blue"),
        ("128 64 128", "128 64 300", "'128 64 300'; expected red"),
        ("128 64 128: road", "128 64 128: rode", "colours: rode; expected ignore or one of sky, road"),
        ("classes: [sky, road]", "", "with `classes` and without `values`"),
    ],
)
def test_a_card_with_wrong_colours_is_refused(tmp_path, old, new, message):
    with pytest.raises(DataError, match=message):
        open_dataset(painted(tmp_path, [[0, 0, 0]], COLOURS.replace(old, new)))


@pytest.mark.parametrize("names", [None, ["good", "defect"]])
def test_a_foreground_of_255_that_is_rare_is_found(tmp_path, names):
    masks = {f"{number:03}": mask(0, 0, 255 if number in (41, 71) else 0) for number in range(100)}
    dataset = open_dataset(mask_folder(tmp_path, masks, names))
    assert len(dataset.classes) == 2
    assert dataset.semantic(41)[0, :3].tolist() == [0, 0, 1]
    assert dataset.semantic(40).max() == 0
