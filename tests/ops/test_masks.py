"""Pasting and cropping of masks against torchvision's."""

import torch
from torchvision.models.detection.roi_heads import paste_masks_in_image, project_masks_on_boxes

from vision.ops.masks import crop_masks, paste_masks

SIZE = (50, 71)


def test_pasting_equals_torchvision_over_the_border_too():
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(20, 2, generator=generator) * 60 - 10
    boxes = torch.cat([corner, corner + 0.2 + torch.rand(20, 2, generator=generator) * 60], 1)
    masks = torch.rand(20, 28, 28, generator=generator)
    expected = paste_masks_in_image(masks[:, None], boxes, SIZE)[:, 0]
    pasted = paste_masks(masks, boxes, SIZE)
    decided = (expected - 0.5).abs() > 1e-4  # rounding may tip what lies on the threshold
    assert torch.equal(pasted[decided], (expected >= 0.5)[decided])
    assert 0.1 < pasted.float().mean() < 0.9
    assert decided.float().mean() > 0.99


def test_nothing_and_a_box_outside_of_the_image():
    assert paste_masks(torch.rand(0, 28, 28), torch.rand(0, 4), SIZE).shape == (0, *SIZE)
    outside = torch.tensor([[-80.0, -80, -60, -60], [300, 300, 320, 320]])
    assert not paste_masks(torch.ones(2, 28, 28), outside, SIZE).any()


def test_a_full_mask_fills_its_box():
    # inside the box every weight falls on ones; half a cell away from the border the padding's zeros begin to count
    pasted = paste_masks(torch.ones(1, 28, 28), torch.tensor([[10.0, 20, 40, 48]]), SIZE)[0]
    assert pasted[21:47, 11:39].all()
    assert pasted.sum() <= 30 * 32


def test_cropping_equals_torchvision():
    generator = torch.Generator().manual_seed(1)
    masks = torch.rand(3, *SIZE, generator=generator) > 0.5
    boxes = torch.tensor([[0.0, 0, 71, 50], [3.3, 4.4, 40.1, 30.7], [60, 40, 61, 41]])
    index = torch.tensor([2, 0, 1])
    torch.testing.assert_close(crop_masks(masks, boxes, index, 28), project_masks_on_boxes(masks, boxes, index, 28))
    assert not crop_masks(masks[:0], boxes, index, 28).any()
