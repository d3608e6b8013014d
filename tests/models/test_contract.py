"""Every model through every promise of the model contract; graphs are in `test_contract_export.py`.

A new model joins by one line in `small_models.py`.
"""

import dataclasses

import pytest
import torch
from contract import built, check_decoded, check_losses, leaves, models, pictures, targets_of, train_losses
from small_models import DISTINCT, SMALL, options_of, small_model
from torch.utils import _pytree as pytree

from vision.engine.inference import ready_model
from vision.layers.fuse import FusedConv2d
from vision.layers.norm import FrozenBatchNorm
from vision.models import MODELS, build_model


def test_table_names_every_model():
    assert set(SMALL) == set(MODELS), "give each model of MODELS its line in SMALL"


@models("forward")
def test_forward_does_not_depend_on_training_and_takes_odd_sizes(name):
    model = built(name)
    images = pictures(height=67, width=81)
    with torch.no_grad():
        evaluated = model(images)
        trained = model.train()(images)
    assert type(evaluated) is type(trained)
    assert pytree.tree_structure(evaluated) == pytree.tree_structure(trained)
    for a, b in zip(leaves(evaluated), leaves(trained)):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert a.isfinite().all() or not a.is_floating_point()
    sizes = torch.tensor([[67, 81], [50, 60]])  # the second is smaller than its batch
    check_decoded(model, model.eval().decode(evaluated, sizes), sizes)


@models("loss")
def test_losses_are_finite_and_reach_every_parameter(name):
    model = built(name)
    images = pictures(height=65, width=70)
    check_losses(model, train_losses(model, images, targets_of(images, objects=(3, 0), crowd=True)))


@models("empty")
def test_batch_without_objects(name):
    model = built(name)
    images = pictures()
    check_losses(model, train_losses(model, images, targets_of(images, objects=(0, 0))))


@models("one")
def test_batch_of_one_and_one_class(name):
    model = built(name, 1)
    images = pictures(batch=1)
    check_losses(model, train_losses(model, images, targets_of(images, classes=1, objects=(2,))))
    sizes = torch.tensor([[64, 64]])
    with torch.no_grad():
        check_decoded(model, model.eval().decode(model(images), sizes), sizes)


@pytest.mark.parametrize("name", DISTINCT)
def test_batch_of_one_small_image(name):
    images = pictures(batch=1, height=32, width=32)  # at stride 32 batch norm sees a single value
    # and a group norm of 32 channels too; these heads have more unless they are made small
    model = small_model(name, **{"semantic_fpn": {"width": 64}, "panoptic_fpn": {"width": 128}}.get(name, {}))
    check_losses(model, train_losses(model, images, targets_of(images, objects=(1,))))


@models("ignored")
def test_all_pixels_ignored_are_no_loss_but_a_gradient(name):
    model = built(name)
    if model.task not in ("semantic", "panoptic"):
        pytest.skip("objects have no pixels to ignore")
    images = pictures()
    targets = targets_of(images)
    targets = dataclasses.replace(targets, semantic=torch.full_like(targets.semantic, 255))
    losses = train_losses(model, images, targets)
    check_losses(model, losses)
    pixels = losses.values() if model.task == "semantic" else [losses["semantic"]]
    assert sum(float(value.detach()) for value in pixels) == 0


@models("many")
def test_many_classes(name):
    classes = 150 if built(name).task == "semantic" else 1000
    model = small_model(name, classes)
    images = pictures(batch=2)
    check_losses(model, train_losses(model, images, targets_of(images, classes=classes)))
    sizes = torch.tensor([[64, 64], [64, 64]])
    with torch.no_grad():
        check_decoded(model, model.eval().decode(model(images), sizes), sizes)


@models("decode")
def test_decode_keeps_its_arguments(name):
    model = built(name)
    if model.task == "semantic":
        pytest.skip("segmentation has no thresholds")
    images, sizes = pictures(), torch.tensor([[64, 64], [64, 64]])
    with torch.no_grad():
        outputs = model(images)
        plenty = model.decode(outputs, sizes, score_threshold=0.0, max_detections=50)
        few = model.decode(outputs, sizes, score_threshold=0.0, max_detections=5)
        none = model.decode(outputs, sizes, score_threshold=1.0)
    check_decoded(model, plenty, sizes)
    for all_found, some, nothing in zip(plenty, few, none):
        assert 0 < len(some) <= 5
        torch.testing.assert_close(some.scores, all_found.scores[: len(some)])
        assert len(nothing) == 0
        middle = float(all_found.scores[len(all_found) // 2])
        kept = model.decode(outputs, sizes, score_threshold=middle, max_detections=50)[0]
        assert (kept.scores > middle).all()


@models("precision")
def test_bfloat16_autocast_and_memory_layout(name):
    model = built(name)
    images = pictures()
    with torch.no_grad():
        expected = leaves(model(images))
        contiguous = leaves(built(name).to(memory_format=torch.contiguous_format)(images))
    for a, b in zip(contiguous, expected):
        if a.shape == b.shape and model.task != "instance":
            torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model.train()(images, targets_of(images))
    losses = model.loss(outputs, targets_of(images))
    sum(losses.values()).backward()
    check_losses(model, losses)


@models("stored precision")
def test_weights_stored_for_inference_give_what_autocast_does(name):
    model, images = built(name), pictures(1)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected, sizes = model(images), torch.tensor([[64, 64]])
        ready = ready_model(model, torch.device("cpu"), "bf16", fold=False, fuse=False)
        found = ready(images)
    for a, b in zip(leaves(found), leaves(expected)):
        torch.testing.assert_close(a, b)
    check_decoded(model, ready.decode(found, sizes, score_threshold=0.0), sizes)


@models("ready for inference")
def test_models_made_ready_for_inference_compute_the_same(name):
    model, images = built(name), pictures()
    with torch.inference_mode():
        expected = model(images)
        ready = ready_model(model, torch.device("cpu"), "fp32")
        for a, b in zip(leaves(ready(images)), leaves(expected)):
            largest = float(b.float().abs().max().clamp(min=1))
            torch.testing.assert_close(a.float(), b.float(), rtol=1e-3, atol=1e-3 * largest)
    assert any(isinstance(module, FusedConv2d) for module in ready.modules())
    assert not any(isinstance(module, FusedConv2d) for module in model.modules())


@models("save")
def test_save_and_load_give_the_same_output(name, tmp_path):
    model = built(name)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    torch.manual_seed(1)
    again = build_model(name, 3, **SMALL[name]).eval().to(memory_format=torch.channels_last)
    again.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    with torch.no_grad():
        for a, b in zip(leaves(model(pictures())), leaves(again(pictures()))):
            assert torch.equal(a, b)


@models("bytes")
def test_bytes_and_fractions_are_the_same_image_and_other_channels_are_refused(name):
    model = built(name)
    images = pictures()
    torch.testing.assert_close(model.prepare(images), model.prepare(images / 255), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="expected"):
        model(images[:, :2])


@pytest.mark.parametrize("name", [name for name in SMALL if {"backbone", "backbone_options"} <= options_of(name)])
def test_options_of_the_backbone_win_over_the_models_own(name):
    options = {**SMALL[name].get("backbone_options", {}), "norm": "frozen_batch"}
    model = small_model(name, backbone="resnet18", backbone_options=options)
    norms = [
        module for module in model.backbone.modules() if isinstance(module, FrozenBatchNorm | torch.nn.BatchNorm2d)
    ]
    assert norms
    assert all(isinstance(norm, FrozenBatchNorm) for norm in norms)
