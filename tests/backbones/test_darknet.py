import pytest
import torch

from vision.backbones import build_backbone
from vision.models import build_model


@pytest.mark.parametrize("size", ["n", "s"])
def test_the_backbone_of_a_detector_carries_over(size):
    torch.manual_seed(0)
    detector, alone = build_model(f"yolo_{size}", 3).eval(), build_backbone(f"csp_{size}", levels=(2, 4, 5)).eval()
    alone.load_state_dict(detector.backbone.state_dict(), strict=True)
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        levels, expected = alone(images), detector.backbone(images)
    assert torch.equal(levels[1], expected[1])
    assert torch.equal(levels[2], expected[2])
    assert [tuple(level.shape[-2:]) for level in levels] == [(16, 24), (4, 6), (2, 3)]
    assert tuple(level.shape[1] for level in levels) == alone.channels
    assert alone.strides == (4, 16, 32)


def test_no_dilated_form():
    with pytest.raises(ValueError, match="output_stride, 8"):
        build_backbone("csp_n", output_stride=8)
