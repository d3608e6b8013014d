"""Options of models: what is not known, of another kind, or at odds with the model is refused when it is built."""

import pytest
import torch

from vision.models import build_model


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("yolo-n", "yolo_n"),
        ("YOLO_N", "yolo_n"),
        ("fasterrcnn_resnet50_fpn", "faster_rcnn"),
        ("deeplabv3", "deeplab_v3"),
        ("retinanet", "retinanet_resnet50_fpn"),
        ("ssdlite", "ssdlite320_mobilenet_v2"),
        ("something", "choose one of"),
    ],
)
def test_a_name_near_a_known_one_is_proposed(name, near):
    with pytest.raises(ValueError, match=near):
        build_model(name, 2)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("mask_rcnn", {"width": 0.25}, "width 0.25; expected a whole number"),
        ("yolo_n", {"width": "wide"}, "width 'wide'; expected a number"),
        ("yolo_n", {"width": -1}, "more than 0"),
        ("retinanet_resnet18_fpn", {"smallest_anchor": 0}, "more than 0"),
        ("unet", {"residual": 1}, "true or false"),
        ("unet", {"depth": 0}, "depth 0"),
        ("deeplab_v3", {"rates": 3}, "expected a list"),
        ("fcos_resnet18_fpn", {"backbone_options": {"in_channels": 1}}, "reads RGB"),
        ("pspnet", {"backbone_options": {"in_channels": 1}}, "own option in_channels"),
        ("faster_rcnn", {"backbone": "mobilenet_v3_large", "backbone_options": {"taps": [3]}}, "give `levels`"),
        ("lraspp", {"backbone_options": {"taps": [5, 3]}}, "rising places"),
        ("lraspp", {"backbone_options": {"taps": [3, 99]}}, "rising places"),
    ],
)
def test_values_that_cannot_be_are_refused(name, options, said):
    with pytest.raises(ValueError, match=said):
        build_model(name, 2, **options)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"roi_fraction": 2.0}, "0 to 1"),
        ({"score_threshold": "0.3"}, "0 to 1"),
        ({"roi_batch": 1.5}, "whole number"),
        ({"max_detections": 0}, "1 or more"),
        ({"box_weights": [[10, 10, 5]]}, "four numbers"),
        ({"stage_loss_weights": [-1]}, "0 or more"),
        ({"stage_ious": [1.5]}, "0 to 1"),
    ],
)
def test_settings_of_two_stage_detectors_have_their_ranges(settings, said):
    with pytest.raises(ValueError, match=said):
        build_model("faster_rcnn", 2, backbone="resnet18", settings=settings)


def test_thresholds_of_two_stage_detectors_may_be_0():
    settings = {"score_threshold": 0, "rpn_score_threshold": 0}
    assert build_model("fast_rcnn", 2, backbone="resnet18", settings=settings).settings.score_threshold == 0


@pytest.mark.parametrize("output_stride", [32, 16])
def test_centernet_knows_the_stride_of_its_map(output_stride):
    options = {"output_stride": output_stride, "width": 0.25}
    model = build_model("centernet_resnet18", 2, backbone_options=options).eval()
    with torch.no_grad():
        assert model(torch.rand(1, 3, 128, 128)).heatmap.shape[-1] == 128 // model.stride


@pytest.mark.parametrize("name", ["multi_task", "panoptic_fpn"])
def test_a_single_class_is_told_from_its_absence(name):
    options = {"backbone": "resnet18", "width": 16, "backbone_options": {"width": 0.25}}
    model = build_model(name, 1, **options).eval()
    with torch.no_grad():
        outputs = model(torch.rand(1, 3, 64, 64))
        probability = model.semantic_probabilities(outputs, (64, 64))
        (found,) = model.decode_semantic(outputs, torch.tensor([[64, 64]]))
    assert probability.shape == (1, 1, 64, 64) and probability.max() < 1
    assert torch.equal(found.labels == 0, probability[0, 0] > 0.5)


def test_bytes_as_floating_point_numbers_are_refused():
    model = build_model("unet", 2, width=4).eval()
    images = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(model(images).logits, model(images / 255).logits, atol=1e-4, rtol=1e-4)
        with pytest.raises(ValueError, match="from 0 to 1"):
            model(images.float())


@pytest.mark.parametrize("name", ["unet", "semantic_fpn"])
@pytest.mark.parametrize("size", [(1, 1), (5, 17), (28, 28)])
def test_segmenters_on_vgg_take_images_smaller_than_its_stride(name, size):
    model = build_model(name, 2, backbone="vgg16", backbone_options={"width": 0.125}).eval()
    with torch.no_grad():
        assert model(torch.rand(1, 3, *size)).logits.shape == (1, 2, *size)
