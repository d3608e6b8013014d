"""Random weights of torchvision's and segmentation_models.pytorch's networks give the same logits under our names."""

import pytest
import torch

import vision
from vision.models.base import IMAGENET_MEAN, IMAGENET_STD
from vision.pretrained.segmentation import convert_segmentation_state, equivalent_options, load_segmentation_state
from vision.structures import ClassMap

CLASSES = ClassMap.of(7)


def pictures(height, width):
    images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1))
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return images, (images - mean) / std


def scrambled(model):
    """The model in evaluation mode with statistics and affine parameters that are not the neutral ones."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.7, 1.4)
    return model.eval()


def check_equal(found, expected):
    # at most 1e-4 of the logits' own size: random deep networks have large ones
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= 1e-4 * max(1.0, float(expected.abs().max()))


TORCHVISION = [
    pytest.param("fcn_resnet50"),
    pytest.param("fcn_resnet101", marks=pytest.mark.slow),
    pytest.param("deeplabv3_resnet50"),
    pytest.param("deeplabv3_resnet101", marks=pytest.mark.slow),
    pytest.param("deeplabv3_mobilenet_v3_large"),
    pytest.param("lraspp_mobilenet_v3_large"),
]


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_logits(name):
    from torchvision.models import get_model

    extra = {} if name.startswith("lraspp") else {"aux_loss": True}
    theirs = scrambled(get_model(name, weights=None, weights_backbone=None, num_classes=7, **extra))
    ours = load_segmentation_state(f"torchvision:{name}", CLASSES, theirs.state_dict()).eval()
    images, normalised = pictures(57, 75)  # no multiple of any stride
    with torch.no_grad():
        expected, found = theirs(normalised), ours(images)
    check_equal(found.logits, expected["out"])
    if extra:
        resized = torch.nn.functional.interpolate(found.auxiliary[0], size=(57, 75), mode="bilinear")
        check_equal(resized, expected["aux"])
    else:
        assert found.auxiliary == []


def test_auxiliary_head_is_left_out_where_the_checkpoint_has_none():
    from torchvision.models import get_model

    theirs = get_model("deeplabv3_mobilenet_v3_large", weights=None, weights_backbone=None, num_classes=7)
    ours = load_segmentation_state("torchvision:deeplabv3_mobilenet_v3_large", CLASSES, theirs.state_dict())
    assert len(ours.auxiliary) == 0


SMP = [
    pytest.param(name, encoder, marks=[] if encoder == encoders[0] else [pytest.mark.slow])
    for name, encoders in {
        "unet": ("resnet18", "mobilenet_v2", "resnet50"),
        "fpn": ("resnet18", "mobilenet_v2", "resnet50"),
        "pspnet": ("resnet18", "mobilenet_v2", "resnet50"),
        "deeplabv3": ("mobilenet_v2", "resnet18", "resnet50"),
        "deeplabv3plus": ("mobilenet_v2", "resnet18", "resnet50"),
    }.items()
    for encoder in encoders
]
SMP_CLASSES = {
    "unet": "Unet", "fpn": "FPN", "pspnet": "PSPNet", "deeplabv3": "DeepLabV3", "deeplabv3plus": "DeepLabV3Plus"
}  # fmt: skip


@pytest.mark.parametrize(("name", "encoder"), SMP)
def test_smp_logits(name, encoder):
    smp = pytest.importorskip("segmentation_models_pytorch")
    theirs = scrambled(getattr(smp, SMP_CLASSES[name])(encoder, encoder_weights=None, classes=7))
    ours = load_segmentation_state(f"smp:{name}:{encoder}", CLASSES, theirs.state_dict()).eval()
    images, normalised = pictures(64, 96)  # smp takes multiples of the stride only
    with torch.no_grad():
        check_equal(ours(images).logits, theirs(normalised))


def test_a_foreign_file_loads_by_its_source_and_becomes_one_of_ours(tmp_path):
    smp = pytest.importorskip("segmentation_models_pytorch")
    theirs = scrambled(smp.Unet("resnet18", encoder_weights=None, classes=2, in_channels=1))
    torch.save({"state_dict": theirs.state_dict()}, tmp_path / "theirs.pth")
    ours = vision.load(tmp_path / "theirs.pth", source="smp:unet:resnet18", classes=["ground", "cell"])
    again = vision.load(vision.save(ours, tmp_path / "ours.safetensors"))
    grey = torch.rand(1, 1, 64, 96)
    with torch.no_grad():
        check_equal(again(grey).logits, theirs((grey - ours.mean) / ours.std))
    with pytest.raises(ValueError, match="does not say its classes"):
        vision.load(tmp_path / "theirs.pth", source="smp:unet:resnet18")
    with pytest.raises(ValueError, match="not weights of smp:unet:resnet18"):
        vision.load(tmp_path / "theirs.pth", source="smp:unet:resnet18", classes=5)
    with pytest.raises(ValueError, match="are in the file"):
        vision.load(tmp_path / "ours.safetensors", classes=5)


def test_unknown_keys_and_sources_are_refused():
    with pytest.raises(ValueError, match="segmentation weights"):
        equivalent_options("torchvision:fcn_resnet18")
    with pytest.raises(ValueError, match="surplus"):
        convert_segmentation_state("smp:unet:resnet18", {"decoder.surplus.weight": torch.zeros(1)})
