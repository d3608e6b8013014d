"""Settings: their order, their checks, their help."""

import dataclasses

import pytest
import yaml

from vision.engine.config import EmaConfig, TrainConfig
from vision.engine.options import (
    config_from_dict,
    field_help,
    merge,
    read_config,
    read_recipe,
    recipe_names,
    settings,
    train_parser,
)
from vision.layers.norm import NORMS
from vision.losses.compose import LOSSES


def test_every_setting_is_explained():
    nested = {
        field.name
        for field in dataclasses.fields(TrainConfig)
        if dataclasses.is_dataclass(getattr(TrainConfig(), field.name))
    }
    assert {"optim", "schedule", "ema", "sampling", "augment"} <= nested
    for name in nested:
        cls = type(getattr(TrainConfig(), name))
        missing = {field.name for field in dataclasses.fields(cls)} - set(field_help(cls))
        assert not missing, f"{cls.__name__} does not explain {missing}"
    assert {field.name for field in dataclasses.fields(TrainConfig)} - set(field_help(TrainConfig)) == nested


def test_order_is_defaults_recipe_file_command_line(tmp_path):
    recipe, file = tmp_path / "recipe.yaml", tmp_path / "file.yaml"
    recipe.write_text("batch_size: 5\nepochs: 6\noptim: {lr: 0.5, momentum: 0.5}\n")
    file.write_text("epochs: 7\noptim: {lr: 0.25}\n")
    config = read_config(["--model", "unet", "--recipe", str(recipe), "--config", str(file), "--optim.lr", "0.125"])
    assert (config.batch_size, config.epochs) == (5, 7)  # recipe; file over recipe
    assert (config.optim.lr, config.optim.momentum) == (0.125, 0.5)  # command line over both; untouched from the recipe
    assert config.schedule.name == read_recipe("segmentation")["schedule"]["name"]
    assert config.seed == TrainConfig.seed


def test_the_same_from_python(tmp_path):
    file = tmp_path / "file.yaml"
    file.write_text("epochs: 7\n")
    config = settings({"model": "unet", "config": str(file), "image_size": [240, 320], "optim": {"lr": 0.1}})
    assert (config.epochs, config.image_size, config.input_size, config.optim.lr) == (7, (240, 320), (240, 320), 0.1)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--epochs", "0"], ["epochs", "1 or more"]),
        (["--epochs", "many"], ["epochs", "many"]),
        (["--optim.lr", "-1"], ["optim.lr", "more than 0"]),
        (["--optim.name", "adamm"], ["optim.name", "adamw"]),
        (["--optim.rate", "1"], ["optim.rate", "optim.lr"]),
        (["--epoch", "3"], ["epoch", "epochs"]),
        (["--precision", "fp8"], ["precision", "bf16"]),
        (["--ema.decay", "1.5"], ["ema.decay", "1"]),
        (["--augment.mosaic", "2"], ["mosaic", "0 to 1"]),
        (["--image-size", "4"], ["image_size", "16 to 8192"]),
        (["--epochs", "3", "--cpu-seconds", "9"], ["epochs", "cpu_seconds"]),
        (["--recipe", "nothing"], ["nothing", "detection", "segmentation"]),
        (["--config", "absent.yaml"], ["absent.yaml"]),
        (["--model", "yolo_zz"], ["yolo_zz", "yolo_n"]),
        (["--lr", "0.1"], ["lr", "optim.lr"]),
        (["--epochs", "ten"], ["epochs: ten", "a whole number"]),
        (["--image-size", "1", "2", "3"], ["image_size: [1, 2, 3]", "height and width as [240,320]"]),
        (["--optim.name", "lion"], ["optim.name: lion", "one of sgd"]),
        (["--model", "unet", "--model_options.width", "wide"], ["width 'wide'", "a whole number"]),
    ],
)
def test_what_is_refused_is_named_with_what_is_allowed(arguments, named):
    with pytest.raises(ValueError, match=r".") as error:
        read_config(arguments)
    for word in named:
        assert word in str(error.value), f"{error.value} does not say {word}"


@pytest.mark.parametrize(
    ("arguments", "field", "value"),
    [
        (["--image-size", "240", "320"], "image_size", (240, 320)),
        (["--image-size", "240,320"], "image_size", (240, 320)),
        (["--image_size=[240,320]"], "image_size", (240, 320)),
        (["--image-size", "64"], "image_size", 64),
        (["--freeze", "*.bias"], "freeze", ["*.bias"]),
        (["--freeze", "stem.*", "stages.0.*"], "freeze", ["stem.*", "stages.0.*"]),
        (["--freeze=[stem.*]"], "freeze", ["stem.*"]),
    ],
)
def test_lists_are_read_as_they_are_typed(arguments, field, value):
    assert getattr(read_config(["--model", "unet", *arguments]), field) == value


def test_help_shows_shares_as_they_are_typed():
    help_text = train_parser().format_help()
    assert "train:80%" in help_text and "%%" not in help_text


@pytest.mark.parametrize(
    ("text", "named"),
    [("epochs: [", "YAML"), ("- 1", "list"), ("optimm: {lr: 1}", "optimm"), ("optim: {lrr: 1}", r"optim\.lrr")],
)
def test_a_bad_file_is_named(tmp_path, text, named):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=named):
        settings({"config": str(path)})


def test_what_is_written_is_read_back():
    config = settings(
        {"model": "unet", "image_size": [64, 96], "multi_scale": [0.5, 1.5], "optim": {"betas": [0.8, 0.9]}}
    )
    again = config_from_dict(yaml.safe_load(yaml.safe_dump(config.to_dict())))
    assert again == config


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_valid(name):
    config_from_dict(merge(TrainConfig().to_dict(), read_recipe(name)))


def test_one_cycle_leaves_the_warmup_of_a_recipe_behind_and_refuses_one_of_its_own():
    assert read_recipe("segmentation")["schedule"]["warmup"] == 0.02
    assert settings({"model": "unet"}).schedule.warmup == 0.02
    for recipe in (None, "camvid"):
        config = settings({"model": "unet", "recipe": recipe, "schedule": {"name": "one_cycle"}})
        assert config.schedule.warmup is None
    with pytest.raises(ValueError, match="one_cycle has its own rise"):
        settings({"model": "unet", "schedule": {"name": "one_cycle", "warmup": 0.1}})


def test_the_end_of_a_run_given_on_top_replaces_the_other_way_of_giving_it(tmp_path):
    config = read_config(["--recipe", "coco_yolo", "--data", "d", "--out", "o", "--cpu-seconds", "5"])
    assert (config.epochs, config.cpu_seconds) == (None, 5)
    (tmp_path / "mine.yaml").write_text("cpu_seconds: 9")
    given = ["--config", str(tmp_path / "mine.yaml"), "--data", "d", "--out", "o"]
    assert read_config([*given, "--recipe", "coco_yolo"]).cpu_seconds == 9
    with pytest.raises(ValueError, match="both given"):
        read_config(["--epochs", "3", "--data", "d", "--out", "o", "--cpu-seconds", "5"])


def test_settings_of_a_recipe_count_when_those_on_top_are_checked(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("schedule: {name: one_cycle}")
    over = {"model": "unet", "recipe": str(recipe), "schedule": {"cycle_momentum": [0.95, 0.85]}}
    assert settings(over).schedule.cycle_momentum == (0.95, 0.85)
    with pytest.raises(ValueError, match="adadelta has no momentum; choose sgd"):
        settings({**over, "optim": {"name": "adadelta"}})


def test_dashes_and_underscores_are_the_same():
    for flag in ("--batch-size", "--batch_size"):
        assert read_config(["--model", "unet", flag, "3"]).batch_size == 3


def test_free_form_settings():
    config = read_config(["--model", "unet", "--model_options.width", "8", "--loss.cross_entropy", "0.5"])
    assert config.model_options == {"width": 8}
    assert config.loss == {"cross_entropy": 0.5}


def test_parts_of_free_form_settings_at_any_depth(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("loss: {dice: {weight: 1.0, smooth: 0.5}}")
    text = (
        "--model unet --model_options.backbone_options.width 0.5 --model_options.backbone_options.levels=[2,3] "
        "--model-options.backbone resnet18 --loss.dice.weight 1e-1 --loss.cross_entropy.class_weight [1,2] "
        f"--config {file}"
    )
    config = read_config(text.split())
    assert config.model_options == {"backbone": "resnet18", "backbone_options": {"width": 0.5, "levels": [2, 3]}}
    assert config.loss == {"dice": {"weight": 0.1, "smooth": 0.5}, "cross_entropy": {"class_weight": [1, 2]}}
    whole = read_config(["--model", "unet", "--model_options", "{width: 8, depth: 3}", "--model_options.depth", "2"])
    assert whole.model_options == {"width": 8, "depth": 2}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--loss.dice"], r"--loss\.dice: no value"),
        (["--loss.dice", "--model", "unet"], r"--loss\.dice: no value"),
        (["--loss.dice", "1", "--loss.dice.weight", "2"], "dice has the value 1 already"),
        (["--loss", "ce", "--loss.dice", "1"], "'ce' and parts of it"),
        (["--loss.dice", "{"], "not YAML"),
    ],
)
def test_bad_parts_of_free_form_settings(arguments, named):
    with pytest.raises(ValueError, match=named):
        read_config(["--model", "unet", *arguments])


def test_the_average_spans_a_share_of_the_run():
    assert EmaConfig().over(1000) == (1 - 1 / 50, 50.0)  # 5 % of 1000 steps
    assert EmaConfig().over(10**7)[0] == 0.9998
    assert EmaConfig(decay=0.9, warmup=7).over(1000) == (0.9, 7)


def test_help_shows_every_setting(capsys):
    train_parser().print_help()
    text = capsys.readouterr().out
    for name in ("--batch-size", "--optim.lr", "--schedule.name", "--augment.mosaic", "--resume", "--cpu-seconds"):
        assert name in text


def test_help_lists_losses_and_norms(capsys):
    train_parser().print_help()
    text = " ".join(capsys.readouterr().out.split())
    assert f"losses: {', '.join(LOSSES)}" in text
    assert f"norms, in place of every batch norm: {', '.join(NORMS)}" in text
