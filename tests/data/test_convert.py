"""Round trips through every format, and what a format cannot express is counted."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from layouts import coco_content, coco_folder, mask_folder, save_image, voc_folder, yolo_folder
from PIL import Image
from test_coco import panoptic_folder
from test_voc import segmentation  # noqa: F401 (a fixture)

from vision.data import DataError, open_dataset
from vision.data.contour import join_rings, mask_outlines
from vision.data.convert import convert
from vision.data.segment import decode_segment
from vision.data.write_masks import voc_palette


def same(ours, theirs, atol=0.0):
    assert len(ours) == len(theirs)
    for index in range(len(ours)):
        a, b = ours.target(index), theirs.target(index)
        np.testing.assert_allclose(a.boxes, b.boxes, atol=atol)
        for field in ("labels", "difficult", "crowd"):
            assert getattr(a, field).tolist() == getattr(b, field).tolist()
        assert ours.image(index).tolist() == theirs.image(index).tolist()


@pytest.fixture
def rich(tmp_path):
    """A COCO data set with a ring (RLE with a hole), an object in two parts, a polygon, a crowd, a box of no area."""
    from pycocotools import mask as coco_mask

    ring = np.zeros((20, 30), np.uint8)
    ring[2:12, 16:28] = 1
    ring[5:9, 20:24] = 0
    parts = np.zeros((20, 30), np.uint8)
    parts[14:16, 2:6] = parts[17:19, 10:14] = 1
    content = coco_content()
    for number, mask, box in ((20, ring, [16, 2, 12, 10]), (21, parts, [2, 14, 12, 5])):
        rle = coco_mask.encode(np.asfortranarray(mask))
        segment = {"size": [20, 30], "counts": rle["counts"].decode()}
        content["annotations"].append(
            {"id": number, "image_id": 7, "category_id": 90, "bbox": box, "area": int(mask.sum()), "iscrowd": 0,
             "segmentation": segment}
        )  # fmt: skip
    first = content["annotations"][0]
    content["annotations"].append(first | {"id": 22, "bbox": [1, 1, 0, 4]})
    return coco_folder(tmp_path / "source", content)


@pytest.mark.parametrize("copy", ["link", "copy"])
def test_coco_keeps_everything(rich, tmp_path, copy):
    report = convert(rich, tmp_path / "new", "coco", copy=copy)
    assert report.splits == {"train": (2, 4)}
    assert dict(report.losses) == {"object without an area, or outside of its image (`vision check` names them)": 1}
    ours, theirs = open_dataset(rich), open_dataset(tmp_path / "new")
    same(ours, theirs)
    assert ours.classes == theirs.classes
    assert ours.annotation_ids(0).tolist() == theirs.annotation_ids(0).tolist()
    np.testing.assert_array_equal(ours.target(0, masks=True).masks, theirs.target(0, masks=True).masks)
    assert ours.target(0).area.tolist() == theirs.target(0).area.tolist()


def test_yolo_keeps_holes_and_parts_and_names_crowds(rich, tmp_path):
    report = convert(rich, tmp_path / "new", "yolo")
    assert report.losses["crowd, which YOLO cannot express: left out"] == 1
    assert report.losses["category id (split train): yolo numbers classes from 0"] == 2
    ours, theirs = open_dataset(rich).target(0, masks=True), open_dataset(tmp_path / "new").target(0, masks=True)
    ours = ours.select(~ours.crowd)
    np.testing.assert_array_equal(ours.masks, theirs.masks)
    np.testing.assert_allclose(ours.boxes, theirs.boxes, atol=1e-4)
    convert(tmp_path / "new", tmp_path / "back", "coco")  # and back again
    back = open_dataset(tmp_path / "back").target(0, masks=True)
    np.testing.assert_array_equal(ours.masks, back.masks)
    assert back.area.tolist() == ours.area.tolist()


def test_voc_keeps_masks_that_do_not_overlap_and_crowds_as_difficult(rich, tmp_path):
    report = convert(rich, tmp_path / "new", "voc")
    assert report.losses["crowd, written as `difficult`"] == 1
    assert "pixel where masks overlap: the later object's" not in report.losses
    ours = open_dataset(rich).target(0, masks=True)
    boxes = open_dataset(tmp_path / "new").target(0)
    assert boxes.boxes.tolist() == ours.boxes.tolist()
    assert boxes.difficult.tolist() == ours.crowd.tolist()
    masks = open_dataset(tmp_path / "new", task="instance").target(0, masks=True)
    np.testing.assert_array_equal(masks.masks, ours.select(~ours.crowd).masks)
    semantic = open_dataset(tmp_path / "new", task="semantic")
    assert semantic.classes.names == ("background", "cat", "dog")
    assert (semantic.semantic(0) == 255).sum() == 4  # the crowd


def test_voc_to_coco_and_back_keeps_difficult(tmp_path):
    voc_folder(tmp_path / "a", {"x": [("dog", 1, 1, 30, 20), ("cat", 3, 4, 5, 6, True)], "y": []})
    voc_folder(tmp_path / "a", {"z": [("cat", 2, 2, 9, 9)]}, "val")
    convert(tmp_path / "a", tmp_path / "b", "coco")
    report = convert(tmp_path / "b", tmp_path / "c", "voc")
    assert not report.losses
    for split in ("train", "val"):
        ours, theirs = open_dataset(tmp_path / "a", split), open_dataset(tmp_path / "c", split)
        same(ours, theirs)
        assert ours.classes == theirs.classes
        assert ours.annotations.flags.tolist() == theirs.annotations.flags.tolist()  # truncated too


def test_what_yolo_and_voc_lose_of_boxes(tmp_path):
    voc_folder(tmp_path / "a", {"x": [("dog", 1, 1, 30, 20), ("cat", 3, 4, 5, 6, True)]})
    report = convert(tmp_path / "a", tmp_path / "b", "yolo")
    assert dict(report.losses) == {"`difficult` flag": 1, "`truncated` flag": 2}
    path = yolo_folder(tmp_path / "c", {"a": "1 0.5 0.5 0.21 0.5\n0 0.1 0.1 0.02 0.2\n"})
    report = convert(path, tmp_path / "d", "voc")
    assert report.losses["box rounded to whole pixels"] == 2
    assert report.losses["box of one pixel or less, which VOC readers take for degenerate"] == 1
    assert "not kept: 2 x box rounded to whole pixels" in str(report)


def test_masks_keep_values_classes_and_what_is_ignored(tmp_path):
    values = np.zeros((6, 8), np.uint8)
    values[0, :3] = [1, 1, 255]
    mask_folder(tmp_path / "a", {"x": values}, ["sky", "road"])
    convert(tmp_path / "a", tmp_path / "b", "masks")
    ours, theirs = open_dataset(tmp_path / "a"), open_dataset(tmp_path / "b")
    assert ours.classes == theirs.classes
    np.testing.assert_array_equal(ours.semantic(0), theirs.semantic(0))


def test_masks_of_0_and_255_alone_are_not_taken_for_binary_afterwards(tmp_path):
    values = np.full((6, 8), 255, np.uint8)
    values[0] = 0
    mask_folder(tmp_path / "a", {"x": values, "y": values % 255 + 1}, ["sky", "road"])
    (tmp_path / "a" / "masks" / "y.png").unlink()
    (tmp_path / "a" / "images" / "y.png").unlink()
    (tmp_path / "a" / "card.yaml").write_text(
        "format: masks\nsplits: {train: {images: images, masks: masks}}\nclasses: [sky, road]\nvalues: {255: ignore}"
    )
    convert(tmp_path / "a", tmp_path / "b", "masks")
    np.testing.assert_array_equal(open_dataset(tmp_path / "b").semantic(0), values)


def test_masks_of_panoptic_and_of_instances(rich, tmp_path):
    source = panoptic_folder(tmp_path / "panoptic")
    convert(source, tmp_path / "a", "masks")
    np.testing.assert_array_equal(open_dataset(tmp_path / "a", "val").semantic(0), open_dataset(source).semantic(0))
    report = convert(source, tmp_path / "b", "coco")
    assert report.losses["stuff segment, which coco cannot express"] == 1
    things = open_dataset(source).target(0, masks=True).masks
    np.testing.assert_array_equal(open_dataset(tmp_path / "b", "val").target(0, masks=True).masks, things)
    report = convert(rich, tmp_path / "c", "masks")
    painted = open_dataset(tmp_path / "c")
    assert painted.classes.names == ("background", "cat", "dog")
    masks = open_dataset(rich).target(0, masks=True).masks
    np.testing.assert_array_equal(painted.semantic(0) > 0, masks.any(0))
    assert report.losses["border between objects of a class, and box"] == 4
    convert(rich, tmp_path / "d", "masks", task="instance")
    np.testing.assert_array_equal(open_dataset(tmp_path / "d").semantic(0), painted.semantic(0))


@pytest.mark.parametrize("count", [3, 300])
def test_semantic_masks_become_stuff_of_coco(tmp_path, count):
    values = np.zeros((6, 8), np.uint8)
    values[0, :4] = [1, 1, 2, 255]
    values[3:, 4:] = 2
    mask_folder(tmp_path / "a", {"x": values, "y": values * 0}, [f"c{k}" for k in range(count)])
    report = convert(tmp_path / "a", tmp_path / "b", "coco")
    assert not report.losses
    assert str(report).splitlines()[1:] == [f"  train: 2 images, {count} classes of pixels in panoptic files"]
    ours, theirs = open_dataset(tmp_path / "a"), open_dataset(tmp_path / "b", task="semantic")
    assert theirs.classes.names == ours.classes.names
    assert not any(theirs.classes.things)
    for index in range(2):
        np.testing.assert_array_equal(ours.semantic(index), theirs.semantic(index))
        assert ours.image(index).tolist() == theirs.image(index).tolist()


@pytest.mark.parametrize("to", ["coco", "voc", "yolo", "masks"])
def test_generated_shapes_become_files(tmp_path, to):
    spec = "shapes:count=5,size=64,seed=3"
    report = convert(spec, tmp_path / "new", to)
    assert {split: images for split, (images, _) in report.splits.items()} == {"train": 5, "val": 1, "test": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    task = {"masks": "semantic", "voc": "instance"}.get(to)
    for split in ("train", "val"):
        ours = open_dataset(spec, split, "semantic" if to == "masks" else None)
        theirs = open_dataset(tmp_path / "new", split, task)
        assert theirs.classes.names == ours.classes.names
        for index in range(len(ours)):
            np.testing.assert_array_equal(ours.image(index), theirs.image(index))
            if to == "masks":
                np.testing.assert_array_equal(ours.target(index, semantic=True).semantic, theirs.semantic(index))
                continue
            a, b = ours.target(index, masks=True), theirs.target(index, masks=True)
            assert a.labels.tolist() == b.labels.tolist()
            np.testing.assert_array_equal(a.masks, b.masks)


def test_object_masks_of_voc_become_coco(segmentation, tmp_path):  # noqa: F811
    root, _ = segmentation
    convert(root, tmp_path / "new", "coco", task="instance")
    ours, theirs = open_dataset(root, task="instance"), open_dataset(tmp_path / "new")
    np.testing.assert_array_equal(ours.target(0, masks=True).masks, theirs.target(0, masks=True).masks)


def test_images_of_the_same_name_stay_apart(tmp_path):
    (tmp_path / "a").mkdir()
    for split in ("train", "val"):
        save_image(tmp_path / "a" / "images" / split / "x.png", (20, 30 if split == "train" else 40))
        (tmp_path / "a" / "labels" / split).mkdir(parents=True)
        (tmp_path / "a" / "labels" / split / "x.txt").write_text("0 0.5 0.5 0.5 0.5")
    (tmp_path / "a" / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat]")
    convert(tmp_path / "a", tmp_path / "b", "voc")
    widths = [open_dataset(tmp_path / "b", split).image(0).shape[1] for split in ("train", "val")]
    assert widths == [30, 40]


def test_what_is_refused_leaves_nothing_behind(tmp_path, monkeypatch):
    path = yolo_folder(tmp_path / "a", {"a": "1 0.5 0.5 0.2 0.5"})
    (tmp_path / "there").mkdir()
    with pytest.raises(DataError, match="exists already"):
        convert(path, tmp_path / "there", "coco")
    with pytest.raises(DataError, match="boxes alone; masks need"):
        convert(path, tmp_path / "b", "masks")
    with pytest.raises(DataError, match="format 'kitti'; expected one of coco, voc, yolo, masks"):
        convert(path, tmp_path / "b", "kitti")
    masks = mask_folder(tmp_path / "m", {"a": np.ones((4, 4), np.uint8)})
    with pytest.raises(DataError, match="which yolo cannot express; convert to masks or coco"):
        convert(masks, tmp_path / "b", "yolo")
    with pytest.raises(ValueError, match="'colour=3' is not understood"):
        convert("shapes:colour=3", tmp_path / "b", "coco")

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full_disk)
    with pytest.raises(OSError, match="No space"):
        convert(path, tmp_path / "b", "coco", copy="copy")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a", "m", "there"]


@settings(max_examples=60, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_one_outline_decodes_to_exactly_the_mask(mask):
    if mask.any():
        outline = join_rings(mask_outlines(mask)).ravel().astype(float)
        np.testing.assert_array_equal(decode_segment([outline], mask.shape), mask)


def test_outlines_of_a_ring():
    ring = np.ones((3, 3), bool)
    ring[1, 1] = False
    outer, hole = mask_outlines(ring)
    assert outer.tolist() == [[0, 0], [3, 0], [3, 3], [0, 3]]
    assert sorted(hole.tolist()) == [[1, 1], [1, 2], [2, 1], [2, 2]]


def test_the_first_colours_of_voc():
    # background, aeroplane, bicycle, bird; the outline is 224 224 192
    assert voc_palette()[[0, 1, 2, 3, 255]].tolist() == [
        [0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [224, 224, 192],
    ]  # fmt: skip


def test_coco256_to_yolo_equals_its_own_label_files(real_data, tmp_path):
    folder = real_data("coco256")
    convert(folder, tmp_path / "new", "yolo", split="val", task="detection")
    labels = sorted((folder / "labels" / "val2017").glob("*.txt"))
    assert len(labels) == len(list((tmp_path / "new" / "labels" / "val").iterdir()))
    for path in labels:
        assert (tmp_path / "new" / "labels" / "val" / path.name).read_text().split() == path.read_text().split()


@pytest.mark.slow
def test_coco256_masks_survive_every_format(real_data, tmp_path):
    folder = real_data("coco256")
    ours = open_dataset(folder, "val")
    for to, task in (("coco", None), ("voc", "instance"), ("yolo", None)):
        convert(folder, tmp_path / to, to, split="val")
        theirs = open_dataset(tmp_path / to, "val", task)
        for index in range(len(ours)):
            target, other = ours.target(index, masks=True), theirs.target(index, masks=True)
            target = target if to == "coco" else target.select(~target.crowd)
            np.testing.assert_array_equal(target.masks, other.masks)
            assert target.labels.tolist() == other.labels.tolist()


def test_masks_that_not_all_objects_have_are_counted(tmp_path):
    content = coco_content()
    content["annotations"].append(content["annotations"][0] | {"id": 30, "segmentation": []})
    source = coco_folder(tmp_path / "source", content)
    assert dict(convert(source, tmp_path / "new", "coco").losses) == {"instance mask, as other objects have none": 2}
    degenerate = content["annotations"][0] | {"id": 30, "bbox": [4, 5, 0, 0], "segmentation": []}
    content["annotations"][-1] = degenerate  # left out: the others have their masks
    source = coco_folder(tmp_path / "again", content)
    assert "instance" in open_dataset(source).tasks
    convert(source, tmp_path / "kept", "coco")
    assert "instance" in open_dataset(tmp_path / "kept").tasks


@pytest.mark.parametrize("to", ["yolo", "voc"])
def test_splits_of_different_classes_are_refused_where_there_is_one_list(tmp_path, to):
    coco_folder(tmp_path / "source")
    content = coco_content()
    content["categories"] = [{"id": 3, "name": "cat"}]
    content["annotations"] = content["annotations"][:1]
    coco_folder(tmp_path / "source", content, "val")
    with pytest.raises(DataError, match=r"classes of val \(cat\) are not those of train \(cat, dog\)"):
        convert(tmp_path / "source", tmp_path / "new", to)
    assert convert(tmp_path / "source", tmp_path / "coco", "coco").splits == {"train": (2, 2), "val": (2, 1)}
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("to", ["yolo", "voc", "masks"])
def test_images_of_the_same_stem_keep_their_annotations_apart(tmp_path, to):
    content = coco_content()
    content["images"][1]["file_name"] = "a.jpg"
    content["annotations"][1] |= {"image_id": 9, "iscrowd": 0}
    source = coco_folder(tmp_path / "source", content)
    convert(source, tmp_path / "new", to)
    theirs = open_dataset(tmp_path / "new")
    assert sorted(theirs.image_path(i).name for i in range(2)) == ["a.png", "a_2.jpg"]
    places = {theirs.image_path(i).name: i for i in range(2)}
    if to == "masks":
        assert [(theirs.semantic(places[name]) > 0).sum() for name in ("a.png", "a_2.jpg")] == [60, 4]
    else:
        assert theirs.target(places["a.png"]).boxes.round().tolist() == [[4, 5, 14, 11]]
        assert theirs.target(places["a_2.jpg"]).boxes.round().tolist() == [[2, 5, 4, 7]]


def test_names_with_spaces_survive_voc(tmp_path):
    content = coco_content()
    content["images"][0]["file_name"] = "my photo 1.jpg"
    content["annotations"] = content["annotations"][:1]
    source = coco_folder(tmp_path / "source", content)
    convert(source, tmp_path / "new", "voc", task="detection")
    same(open_dataset(source), open_dataset(tmp_path / "new"))


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("to", ["yolo", "coco", "voc", "masks"])
def test_images_that_are_annotated_as_stored_lose_their_orientation(tmp_path, to, suffix):
    content = coco_content()
    content["images"][0] |= {"file_name": f"a.{suffix}", "height": 40, "width": 60}
    ring = [[30, 2, 50, 2, 50, 12, 30, 12]]
    content["annotations"] = [content["annotations"][0] | {"bbox": [30, 2, 20, 10], "segmentation": ring}]
    source = coco_folder(tmp_path / "source", content)
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[2:12, 30:50, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "source" / "images" / "train" / f"a.{suffix}", exif=exif, quality=95)
    assert open_dataset(source).image(0).shape == (40, 60, 3)
    convert(source, tmp_path / "new", to)
    theirs = open_dataset(tmp_path / "new")
    image = theirs.image(0)
    seen = theirs.semantic(0) > 0 if to == "masks" else np.zeros((40, 60), bool)
    if to != "masks":
        left, top, right, bottom = theirs.target(0).boxes[0].round().astype(int)
        seen[top:bottom, left:right] = True
    assert image.shape == (40, 60, 3) and seen.sum() == 200
    assert image[seen][:, 0].mean() > 220 and image[~seen].mean() < 10  # JPEG blurs colours


def test_a_mask_without_a_pixel_becomes_its_box_in_yolo(tmp_path):
    content = coco_content()
    rings = [[4.1, 5.1, 4.3, 5.1, 4.3, 5.3], [7.1, 5.1, 7.3, 5.1, 7.3, 5.3]]
    content["annotations"] = [content["annotations"][0] | {"bbox": [4.1, 5.1, 3.2, 0.2], "segmentation": rings}]
    report = convert(coco_folder(tmp_path / "source", content), tmp_path / "new", "yolo")
    assert report.losses["mask without a pixel: written as its box"] == 1
    np.testing.assert_allclose(open_dataset(tmp_path / "new").target(0).boxes, [[4.1, 5.1, 7.3, 5.3]], atol=1e-4)
