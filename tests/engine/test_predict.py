"""`predict` on every kind of source, with a model whose answer is known."""

import json
import shutil

import cv2
import numpy as np
import psutil
import pytest
import torch
from torch import nn

from vision.data.masks import value_table
from vision.data.resize import Preprocess
from vision.engine.output import write_class_map
from vision.engine.predict import predict, predict_to_folder
from vision.media.video import VideoReader, VideoWriter
from vision.models import build_model
from vision.models.base import DenseOutputs, SegmentOutputs, VisionModel
from vision.structures import ClassMap, Detections, Segmentation


class BrightBox(VisionModel):
    """Finds the bright pixels of an image and calls their bounding box an object."""

    def __init__(self):
        super().__init__(("lamp",))
        self.preprocess = Preprocess((64, 64), "letterbox")
        self.layer = nn.Conv2d(3, 1, 1)

    def forward(self, images, targets=None):
        return DenseOutputs(images.float(), images, images, images)

    def decode(self, outputs, sizes, *, score_threshold=0.0, **_):
        found = []
        for image in outputs.logits:
            bright = (image.min(0).values > 200).nonzero()
            if len(bright) == 0 or score_threshold > 0.9:
                found.append(Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long)))
                continue
            (top, left), (bottom, right) = bright.min(0).values, bright.max(0).values + 1
            box = torch.stack([left, top, right, bottom]).float()[None]
            found.append(Detections(box, torch.tensor([0.9]), torch.tensor([0])))
        return found


class Unsure(VisionModel):
    """Halves whose probabilities rise slowly from one side to the other."""

    task = "semantic"
    divisor = 1

    def __init__(self):
        super().__init__(("left", "right"))
        self.preprocess = Preprocess((32, 32), "keep")

    def forward(self, images, targets=None):
        column = torch.linspace(-1, 1, images.shape[-1]).expand(len(images), 1, *images.shape[-2:])
        return SegmentOutputs(torch.cat([-column, column], 1), [])

    def decode(self, outputs, sizes, *, scores=False, **_):
        return [Segmentation(logits.argmax(0), logits.softmax(0)) for logits in outputs.logits]


class Halves(VisionModel):
    """Left half of the picture is class 0, right half class 1."""

    task = "semantic"
    divisor = 1

    def __init__(self):
        super().__init__(("left", "right"))
        self.preprocess = Preprocess((32, 32), "stretch")

    def forward(self, images, targets=None):
        column = torch.linspace(-1, 1, images.shape[-1]).expand(len(images), 1, *images.shape[-2:])
        return SegmentOutputs(torch.cat([-column, column], 1) * 50, [])

    def decode(self, outputs, sizes, *, scores=False, **_):
        return [Segmentation(logits.argmax(0), logits.softmax(0)) for logits in outputs.logits]


def picture(size=(96, 128), box=(32, 24, 80, 56)):
    image = np.full((*size, 3), 30, np.uint8)
    image[box[1] : box[3], box[0] : box[2]] = 255
    return image


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "in" / "a.png"), picture())
    cv2.imwrite(str(tmp_path / "in" / "deep" / "a.png"), picture((64, 64), (8, 8, 40, 24)))
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    with VideoWriter(tmp_path / "clip.mp4", 8.0, (96, 128)) as writer:
        for shift in range(7):
            writer.write(np.roll(picture(), 2 * shift, axis=1))
    return tmp_path


def test_boxes_come_back_in_source_pixels():
    (result,) = predict(BrightBox(), picture())
    assert result.detections.boxes.tolist() == [[32, 24, 80, 56]]  # halved to fit 64, doubled again
    assert result.source == "array"
    assert result.draw().shape == (96, 128, 3)


@pytest.mark.parametrize(
    ("source", "count"), [("in", 2), ("in/a.png", 1), ("in/*.png", 1), ("in/**/*.png", 2), ("clip.mp4", 7)]
)
def test_sources(folder, source, count):
    results = list(predict(BrightBox(), str(folder / source)))
    assert len(results) == count
    assert all(len(result.detections) == 1 for result in results)


def test_a_stream_by_its_url(folder):
    url = (folder / "clip.mp4").as_uri()  # opened as rtsp:// and http:// are
    assert len(list(predict(BrightBox(), url))) == 7
    assert predict_to_folder(BrightBox(), url, folder / "out", max_frames=3, progress=False)["frames"] == 3
    with VideoReader(folder / "out" / "stream.mp4") as video:
        assert (video.size, len(list(video))) == ((96, 128), 3)


def test_folder_of_results(folder):
    counts = predict_to_folder(BrightBox(), [folder / "in", folder / "clip.mp4"], folder / "out", progress=False)
    assert counts == {"images": 2, "frames": 7, "objects": 9}
    rows = json.loads((folder / "out" / "predictions.json").read_text())
    assert len(rows) == 9
    assert rows[0] == {
        "image_id": "a.png", "file_name": "a.png", "frame": 0, "category_id": 0, "bbox": [32, 24, 48, 32],
        "score": pytest.approx(0.9), "category_name": "lamp",
    }  # fmt: skip
    assert [row["frame"] for row in rows if row["file_name"] == "clip.mp4"] == list(range(7))
    with VideoReader(folder / "out" / "clip.mp4") as video:
        assert (video.rate, video.size, len(list(video))) == (8.0, (96, 128), 7)
    assert cv2.imread(str(folder / "out" / "deep" / "a.png")).shape == (64, 64, 3)


def test_videos_in_sub_folders_stay_apart(folder):
    for name in ("x", "y"):
        (folder / "in" / name).mkdir()
        shutil.copy(folder / "clip.mp4", folder / "in" / name / "clip.mp4")
    predict_to_folder(BrightBox(), folder / "in", folder / "out", progress=False)
    rows = json.loads((folder / "out" / "predictions.json").read_text())
    for name in ("x/clip.mp4", "y/clip.mp4"):
        assert [row["frame"] for row in rows if row["file_name"] == name] == list(range(7))
        assert (folder / "out" / name).is_file()


def test_pictures_and_class_maps_do_not_overwrite_each_other(folder):
    (folder / "in" / "masks").mkdir()
    cv2.imwrite(str(folder / "in" / "masks" / "a.png"), picture((40, 50)))
    cv2.imwrite(str(folder / "in" / "grey.pgm"), picture((20, 30))[..., 0])
    counts = predict_to_folder(Halves(), folder / "in", folder / "out", progress=False)
    assert counts["images"] == 4
    assert cv2.imread(str(folder / "out" / "masks_pictures" / "a.png")).shape == (40, 50, 3)
    shapes = {
        str(path.relative_to(folder / "out" / "masks")): cv2.imread(str(path), cv2.IMREAD_UNCHANGED).shape
        for path in (folder / "out" / "masks").rglob("*.png")
    }
    assert shapes == {
        "a.png": (96, 128),
        "deep/a.png": (64, 64),
        "masks_pictures/a.png": (40, 50),
        "grey.png": (20, 30),
    }
    assert cv2.imread(str(folder / "out" / "grey.png")).shape == (20, 30, 3)


def test_class_maps(folder):
    predict_to_folder(Halves(), folder / "in", folder / "out", progress=False)
    labels = cv2.imread(str(folder / "out" / "masks" / "a.png"), cv2.IMREAD_UNCHANGED)
    assert labels.shape == (96, 128)
    assert (labels[:, :64] == 0).all() and (labels[:, 64:] == 1).all()


def test_each_class_of_a_multi_label_model_has_its_own_mask(tmp_path):
    model = build_model("unet", ["car/van", "wheel"], depth=1, width=4, mode="multilabel")
    model.preprocess = Preprocess((32, 32), "keep")
    logits = torch.tensor([1.0, 2.0])[:, None, None]  # both are everywhere, the second is likelier
    model.head.forward = lambda features: logits.expand(len(features[0]), 2, 8, 8)
    cv2.imwrite(str(tmp_path / "a.png"), picture((20, 30)))
    predict_to_folder(model, tmp_path / "a.png", tmp_path / "out", progress=False)
    for name in ("car_van", "wheel"):
        layer = cv2.imread(str(tmp_path / "out" / "layers" / "a" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
        assert layer.shape == (20, 30) and (layer == 255).all()
    assert (cv2.imread(str(tmp_path / "out" / "masks" / "a.png"), cv2.IMREAD_UNCHANGED) == 1).all()
    assert not (tmp_path / "out" / "scores").exists()
    (found,) = predict(model, picture())
    assert found.segmentation.layers.all()
    (single,) = predict(Halves(), picture(), scores=True)
    with pytest.raises(ValueError, match="multi-label"):
        _ = single.segmentation.layers


def test_score_maps_on_request(folder):
    predict_to_folder(Halves(), folder / "in" / "a.png", folder / "out", progress=False, scores=True)
    scores = np.load(folder / "out" / "scores" / "a.npy")
    assert (scores.shape, scores.dtype) == ((2, 96, 128), np.float16)
    assert scores[0, :, :60].min() > 0.9 and scores[1, :, 68:].min() > 0.9
    with pytest.raises(ValueError, match="semantic"):
        predict_to_folder(BrightBox(), folder / "in" / "a.png", folder / "other", progress=False, scores=True)


def test_scores_of_a_video_are_refused_before_anything_is_written(folder):
    with pytest.raises(ValueError, match=r"clip\.mp4 is a video"):
        predict_to_folder(Halves(), [folder / "in", folder / "clip.mp4"], folder / "out", progress=False, scores=True)
    assert not [p for p in folder.iterdir() if "out" in p.name]


def test_scores_come_with_predictions_on_request():
    (plain,), (scored,) = predict(Halves(), picture()), predict(Halves(), picture(), scores=True)
    assert plain.segmentation.scores is None
    assert scored.segmentation.scores.shape == (2, 96, 128)
    assert torch.equal(plain.segmentation.labels, scored.segmentation.labels)


def test_class_maps_of_more_than_255_classes_have_16_bits(tmp_path):
    labels = torch.tensor([[0, 255, 299, -1]])
    classes = ClassMap.of(300)
    write_class_map(tmp_path / "masks" / "a.png", labels, classes)
    assert cv2.imread(str(tmp_path / "masks" / "a.png"), cv2.IMREAD_UNCHANGED).tolist() == [[0, 255, 299, 65535]]
    table = value_table(classes, {}, "")  # they can be read again as a data set
    assert table[[0, 255, 299, 65535]].tolist() == [0, 255, 299, -1]
    write_class_map(tmp_path / "b.png", torch.tensor([[0, 254, 255]]), ClassMap.of(255))
    found = cv2.imread(str(tmp_path / "b.png"), cv2.IMREAD_UNCHANGED)
    assert (found.dtype, found.tolist()) == (np.uint8, [[0, 254, 255]])


def tiny_joint(name):
    torch.manual_seed(0)
    options = {"hidden": 16} if name == "panoptic_fpn" else {"depth": 1}
    options |= {"backbone": "resnet18", "width": 64, "backbone_options": {"width": 0.25}}
    model = build_model(name, ClassMap(("thing", "stuff"), things=(True, False)), **options)
    model.preprocess = Preprocess((64, 64), "letterbox")
    return model


def test_multi_task_models_write_boxes_and_class_maps(folder):
    model = tiny_joint("multi_task")
    (found,) = predict(model, picture(), score_threshold=0.0)
    assert found.segmentation.labels.shape == (96, 128)
    assert len(found.detections) > 0
    counts = predict_to_folder(model, folder / "in", folder / "out", progress=False)
    assert {"images", "frames", "objects"} == set(counts)
    assert isinstance(json.loads((folder / "out" / "predictions.json").read_text()), list)
    assert cv2.imread(str(folder / "out" / "masks" / "deep" / "a.png"), cv2.IMREAD_UNCHANGED).shape == (64, 64)
    drawn = cv2.imread(str(folder / "out" / "a.png"))
    assert (drawn[90:, 100:] != 30).any()  # the colours of the classes lie over the picture


def test_panoptic_models_write_their_segments(folder):
    model = tiny_joint("panoptic_fpn")
    with torch.no_grad():
        model.semantic_head.classifier.bias.copy_(torch.tensor([-50.0, 50.0]))
    (found,) = predict(model, picture(), score_threshold=0.3)
    assert found.panoptic.ids.shape == (96, 128)
    assert set(found.segmentation.labels.unique().tolist()) <= {0, 1, 255}
    predict_to_folder(model, folder / "in", folder / "out", progress=False)
    content = json.loads((folder / "out" / "panoptic.json").read_text())
    assert [(row["image_id"], row["file_name"]) for row in content["annotations"]] == [
        ("a.png", "a.png"), ("deep/a.png", "deep_a.png"),
    ]  # fmt: skip
    assert cv2.imread(str(folder / "out" / "panoptic" / "deep_a.png")).shape == (64, 64, 3)
    assert cv2.imread(str(folder / "out" / "deep" / "a.png")).shape == (64, 64, 3)


@pytest.mark.parametrize(("mode", "above", "below"), [("binary", 1, 0), ("multilabel", 0, 255)])
def test_the_threshold_of_segmenters_that_have_one(mode, above, below):
    model = build_model("unet", 2, width=4, mode=mode)
    for parameter in model.head.parameters():
        torch.nn.init.zeros_(parameter)
    [bias] = [parameter for name, parameter in model.head.named_parameters() if name.endswith("bias")][-1:]
    torch.nn.init.ones_(bias)  # every probability is 0.73
    for threshold, expected in ((None, above), (0.1, above), (0.7, above), (0.8, below)):
        (found,) = predict(model, picture(), score_threshold=threshold, device="cpu")
        assert found.segmentation.labels.unique().tolist() == [expected]


def test_one_of_several_sources_that_cannot_be_decoded_is_passed_over(folder, caplog):
    whole = (folder / "in" / "a.png").read_bytes()
    mixed = folder / "mixed"
    mixed.mkdir()
    for name, content in (("a.png", whole), ("b.png", whole[:60]), ("c.mp4", b"no video"), ("d.png", whole)):
        (mixed / name).write_bytes(content)
    counts = predict_to_folder(BrightBox(), mixed, folder / "out", progress=False)
    assert counts["images"] == counts["unreadable"] == 2
    assert {path.name for path in (folder / "out").iterdir()} == {"a.png", "d.png", "predictions.json"}
    assert "b.png" in caplog.text and "c.mp4" in caplog.text
    assert [found.source[-5:] for found in predict(BrightBox(), mixed)] == ["a.png", "d.png"]
    for name in ("b.png", "c.mp4"):
        with pytest.raises(ValueError, match=name):
            predict_to_folder(BrightBox(), mixed / name, folder / "none", progress=False)


def test_crf_sees_the_source_where_the_network_sees_a_smaller_picture():
    image = np.full((64, 64, 3), 30, np.uint8)
    image[:, 41:] = 220  # an odd column: it has no place in the resized picture
    model = Unsure()
    model.preprocess = Preprocess((32, 32), "stretch")
    (refined,) = predict(model, image, device="cpu", crf=True)
    assert refined.segmentation.labels.sum(1).tolist() == [23] * 64


def test_crf_moves_the_border_to_the_edge_in_the_image():
    # the model's border lies at column 16 of 32, the image's edge at column 20: the CRF follows the colours
    image = np.full((32, 32, 3), 30, np.uint8)
    image[:, 20:] = 220
    (plain,) = predict(Unsure(), image, device="cpu")
    (refined,) = predict(Unsure(), image, device="cpu", crf=True)
    assert plain.segmentation.labels.sum(1).float().mean() == 16
    assert refined.segmentation.labels.sum(1).float().mean() == 12
    with pytest.raises(ValueError, match="semantic"):
        next(predict(BrightBox(), image, crf=True))


def test_no_detection_is_an_empty_list(folder):
    predict_to_folder(BrightBox(), folder / "in" / "a.png", folder / "out", progress=False, score_threshold=0.95)
    assert json.loads((folder / "out" / "predictions.json").read_text()) == []


@pytest.mark.parametrize("source", ["missing.png", "in/notes.txt", "nothing*.jpg", "empty", "file:///none.mp4"])
def test_bad_source_is_named_and_nothing_is_written(folder, source):
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match=source.replace("*", r"\*")):
        place = source if "://" in source else str(folder / source)
        predict_to_folder(BrightBox(), place, folder / "out", progress=False)
    assert not [p for p in folder.iterdir() if "out" in p.name]


def test_truncated_image_is_named_and_nothing_is_written(folder):
    content = cv2.imencode(".jpg", picture())[1].tobytes()
    (folder / "in" / "b.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"b\.jpg"):
        predict_to_folder(BrightBox(), folder / "in" / "b.jpg", folder / "out", progress=False)
    assert not [p for p in folder.iterdir() if "out" in p.name]


def test_existing_folder_is_kept(folder):
    (folder / "out").mkdir()
    (folder / "out" / "mine.txt").write_text("precious")
    with pytest.raises(ValueError, match="another name"):
        predict_to_folder(BrightBox(), folder / "in", folder / "out", progress=False)
    assert (folder / "out" / "mine.txt").read_text() == "precious"


@pytest.mark.slow
def test_memory_does_not_grow_with_the_clip(tmp_path):
    with VideoWriter(tmp_path / "long.mp4", 25.0, (360, 480)) as writer:
        for shift in range(600):
            writer.write(np.roll(picture((360, 480), (100, 100, 300, 200)), shift % 100, axis=1))
    process, seen = psutil.Process(), []
    for number, _ in enumerate(predict(BrightBox(), tmp_path / "long.mp4")):
        if number % 50 == 0:
            seen.append(process.memory_info().rss)
    # 500 frames of 0.5 MB would be 259 MB
    assert max(seen[2:]) - seen[2] < 30e6
