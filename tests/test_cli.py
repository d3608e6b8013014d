"""The command line: help, exit codes, one clear line for what is wrong."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vision.cli import main

ROOT = Path(__file__).parents[1]


def write_bccd_like(folder, *, xml=None, image=None):
    """A VOC data set of two 32-pixel images, a and b, with one object each, the same in train and val."""
    import cv2

    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    picture = np.full((32, 32, 3), 90, np.uint8)
    picture[8:24, 8:24] = 200
    for name in "ab":
        cv2.imwrite(str(folder / "JPEGImages" / f"{name}.jpg"), picture)
    if image is not None:
        (folder / "JPEGImages" / "a.jpg").write_bytes(image)
    box = "<bndbox><xmin>9</xmin><ymin>9</ymin><xmax>24</xmax><ymax>24</ymax></bndbox>"
    text = (
        "<annotation><filename>NAME.jpg</filename><size><width>32</width><height>32</height><depth>3</depth></size>"
        f"<object><name>cell</name><difficult>0</difficult>{box}</object></annotation>"
    )
    for name in "ab":
        (folder / "Annotations" / f"{name}.xml").write_text(text.replace("NAME", name))
    if xml is not None:
        (folder / "Annotations" / "a.xml").write_text(xml)
    for split in ("train", "val"):
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("a\nb\n")
    return folder


TRAIN = ["train", "--model", "yolo_n", "--image-size", "64", "--epochs", "1", "--batch-size", "2", "--device", "cpu"]


def run(arguments, capsys):
    """(exit code, stderr) of a command line; its stderr must hold no traceback."""
    try:
        code = main(arguments)
    except SystemExit as error:
        code = error.code
    text = capsys.readouterr().err
    assert "Traceback" not in text
    return code, text


@pytest.mark.parametrize(
    "command", [[], ["train"], ["evaluate"], ["predict"], ["score"], ["check"], ["convert"], ["demo"]]
)
def test_help_names_what_a_command_does(command, capsys):
    try:
        code = main([*command, "--help"])
    except SystemExit as error:
        code = error.code
    assert code == 0
    text = capsys.readouterr().out
    assert "vision" in text
    assert "--help" in text


def test_no_command_is_bad_input(capsys):
    code, text = run([], capsys)
    assert code == 2
    assert "COMMAND" in text


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["train", "--epochs", "0"], ["epochs", "1 or more"]),
        (["train", "--epoch", "1"], ["epoch", "epochs"]),
        (["train", "--model", "yolo_n", "--out", "x"], ["data"]),
        (["train", "--model", "none_such", "--data", "shapes", "--out", "x"], ["none_such", "yolo_n"]),
        (["train", "--model", "yolo_n", "--data", "/not/there", "--out", "x"], ["/not/there"]),
        (["evaluate", "--weights", "/not/there.safetensors", "--data", "shapes"], ["/not/there.safetensors"]),
        (["evaluate", "--weights", "x", "--data", "shapes", "--batch-size", "0"], ["--batch-size", "1 or more"]),
        (["predict", "--weights", "/not/there.pt", "a.jpg", "--out", "x"], ["/not/there.pt"]),
        (["predict", "--weights", "x", "a.jpg", "--out", "x", "--score", "2"], ["--score", "0 to 1"]),
        (["evaluate", "--weights", "shapes_yolo_n", "--data", "shapes", "--device", "gpu"], ["'gpu'", "cuda:NUMBER"]),
        (["check", "/not/there"], ["/not/there"]),
        (["frobnicate"], ["frobnicate", "train"]),
    ],
)
def test_bad_input_is_named(arguments, named, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, text = run(arguments, capsys)
    assert code == 2
    for word in named:
        assert word in text
    assert not list(tmp_path.iterdir())  # nothing half-written


BOMB = (
    '<!DOCTYPE b [<!ENTITY a "aaaaaaaaaa"><!ENTITY c "&a;&a;&a;&a;">]><annotation><filename>&c;</filename></annotation>'
)


@pytest.mark.parametrize(
    ("broken", "named"),
    [
        ({"xml": "this is not XML"}, "a.xml"),
        ({"xml": BOMB}, "a.xml"),
        ({"xml": '{"images": []}'}, "a.xml"),
        ({"image": b"this is no image"}, "a.jpg"),
    ],
)
def test_a_broken_data_set_is_named(broken, named, capsys, tmp_path):
    data = write_bccd_like(tmp_path / "data", **broken)
    code, text = run([*TRAIN, "--data", str(data), "--out", str(tmp_path / "run")], capsys)
    assert code == 2
    assert named in text
    assert len(text.strip().splitlines()[-1]) < 1000


def test_a_truncated_image_is_named(capsys, tmp_path):
    data = write_bccd_like(tmp_path / "data")
    path = data / "JPEGImages" / "a.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    code, text = run([*TRAIN, "--data", str(data), "--out", str(tmp_path / "run")], capsys)
    assert code == 2
    assert "a.jpg" in text
    assert not (tmp_path / "run").exists()


def test_a_split_without_annotations_is_named(capsys, tmp_path):
    empty = "<annotation><filename>a.jpg</filename><size><width>32</width><height>32</height></size></annotation>"
    data = write_bccd_like(tmp_path / "data")
    for name in "ab":
        (data / "Annotations" / f"{name}.xml").write_text(empty)
    code, text = run([*TRAIN, "--data", str(data), "--out", str(tmp_path / "run")], capsys)
    assert code == 2
    assert str(data) in text
    assert not (tmp_path / "run").exists()


def test_train_evaluate_predict(capsys, tmp_path):
    data = write_bccd_like(tmp_path / "data")
    out = tmp_path / "run"
    assert main([*TRAIN, "--data", str(data), "--out", str(out)]) == 0
    assert "images per CPU second" in capsys.readouterr().out
    weights = ["--weights", str(out / "best.safetensors"), "--device", "cpu"]
    assert main(["evaluate", *weights, "--data", str(data), "--out", str(tmp_path / "evaluation")]) == 0
    assert "AP" in capsys.readouterr().out
    assert (tmp_path / "evaluation" / "metrics.json").is_file()
    picture = str(data / "JPEGImages" / "a.jpg")
    assert main(["predict", *weights, picture, "--out", str(tmp_path / "pictures")]) == 0
    assert (tmp_path / "pictures" / "a.jpg").is_file()
    # the folder that exists is kept; a checkpoint of other classes is refused
    code, text = run([*TRAIN, "--data", str(data), "--out", str(out)], capsys)
    assert (code, "--resume" in text) == (2, True)
    code, text = run(["evaluate", *weights, "--data", "shapes:count=2,size=32"], capsys)
    assert code == 2
    assert "classes" in text


def test_debug_shows_the_traceback():
    with pytest.raises(ValueError, match="nowhere"):
        main(["evaluate", "--weights", "nowhere", "--data", "shapes", "--debug"])


def test_the_tools_are_the_commands():
    done = subprocess.run(
        [sys.executable, "tools/predict.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "SOURCE" in done.stdout


def test_export_writes_a_file_and_says_how_near_it_is(tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    weights = ROOT / "weights" / "shapes_unet.safetensors"
    target = tmp_path / "unet.onnx"
    assert main(["export", "--weights", str(weights), "--out", str(target), "--size", "32", "64"]) == 0
    assert "probabilities" in capsys.readouterr().out
    assert target.stat().st_size > 100_000
    assert main(["export", "--weights", str(weights), "--out", str(target)]) == 2
    assert "exists and is kept" in capsys.readouterr().err
