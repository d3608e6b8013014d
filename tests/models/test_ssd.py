"""SSD and SSDlite on backbones other than their papers'."""

import pytest
import torch

from vision.models import TrainStep, build_model
from vision.structures import Targets

RESNET = {"backbone": "resnet18", "width": 0.125}
PLACES = {
    # levels at strides 8, 16, 32, 64, 128 (and 256, 512): 38, 19, 10, 5, 3, 2 and 64, 32, 16, 8, 4, 2, 1 places a side
    "ssd300_vgg16": (300, 4 * 38**2 + 6 * (19**2 + 10**2 + 5**2) + 4 * (3**2 + 2**2)),
    "ssd512_vgg16": (512, 4 * 64**2 + 6 * (32**2 + 16**2 + 8**2 + 4**2) + 4 * (2**2 + 1)),
    # from stride 16 on: 20, 10, 5, 3, 2, 1
    "ssdlite320_mobilenet_v3_large": (320, 6 * (20**2 + 10**2 + 5**2 + 3**2 + 2**2 + 1)),
}


@pytest.mark.parametrize("name", PLACES)
def test_boxes_of_all_levels_on_a_resnet(name):
    size, expected = PLACES[name]
    model = build_model(name, 2, **RESNET).eval()
    with torch.no_grad():
        outputs = model(torch.rand(1, 3, size, size))
    assert outputs.logits.shape == (1, expected, 3)
    assert outputs.anchors.shape == (expected, 4)


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v2", "vgg16_bn", "csp_n"])
@pytest.mark.parametrize("name", ["ssd300_vgg16", "ssdlite320_mobilenet_v2"])
def test_learns_and_finds_on_any_backbone(name, backbone):
    torch.manual_seed(0)
    model = build_model(name, 2, backbone=backbone, width=0.25)
    images = torch.rand(2, 3, 70, 91)
    boxes = torch.tensor([[[8.0, 10, 60, 50]], [[20.0, 5, 44, 66]]])
    valid = torch.ones(2, 1, dtype=torch.bool)
    targets = Targets(boxes, torch.zeros(2, 1, dtype=torch.int64), valid, ~valid)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for _ in range(12):
        loss = sum(TrainStep(model)(images, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    found = model.decode(model.eval()(images), torch.tensor([[70, 91], [60, 80]]), score_threshold=0.0)
    assert [len(one) > 0 for one in found] == [True, True]


def test_extra_maps_take_the_backbones_norm_and_the_loss_its_name():
    model = build_model("ssd300_vgg16", 2, **RESNET, backbone_options={"norm": "group"}, box_loss="giou")
    assert any(isinstance(module, torch.nn.GroupNorm) for module in model.backbone.extras.modules())
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    assert model.box_loss.name == "giou"
    with pytest.raises(ValueError, match="those of the paper"):
        build_model("ssd300_vgg16", 2, backbone_options={"levels": (2, 3)})
    with pytest.raises(ValueError, match=r"resnet18.*levels"):
        build_model("ssd300_vgg16", 2, **RESNET, backbone_options={"level": (3,)})


def test_a_norm_of_ssdlite_is_that_of_all_its_parts():
    model = build_model("ssdlite320_mobilenet_v3_small", 2, backbone_options={"norm": "group"})
    assert not [name for name, module in model.named_modules() if isinstance(module, torch.nn.BatchNorm2d)]
