"""Instance masks between the frame of their box and the frame of the image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

__all__ = ["crop_masks", "paste_masks"]


def paste_masks(masks: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float = 0.5) -> Tensor:
    """Masks (N, M, M) of probabilities, each stretched over its box (N, 4) xyxy -> (N, height, width) bool.

    As torchvision's: one cell of zeros around the mask, the box grown to match and cut to whole pixels, bilinear
    between cell centres, then `>= threshold`. Works on the pixels of each box only. Loops over instances at the
    ragged edge and syncs with the host.
    """
    height, width = size
    result = torch.zeros(len(masks), height, width, dtype=torch.bool, device=masks.device)
    if not len(masks):
        return result
    masks = F.pad(masks.float(), (1, 1, 1, 1))
    cells = masks.shape[-1]
    centre = (boxes[:, :2] + boxes[:, 2:]) * 0.5
    half = (boxes[:, 2:] - boxes[:, :2]) * 0.5 * (cells / (cells - 2))
    corners = torch.cat([centre - half, centre + half], 1).long().tolist()
    for mask, (x1, y1, x2, y2), canvas in zip(masks, corners, result):
        rows = _resize_weights(y1, y2, height, cells, masks.device)
        columns = _resize_weights(x1, x2, width, cells, masks.device)
        if len(rows) and len(columns):
            top, left = max(y1, 0), max(x1, 0)
            region = canvas[top : top + len(rows), left : left + len(columns)]
            torch.ge((rows @ mask) @ columns.T, threshold, out=region)
    return result


def _resize_weights(first: int, last: int, limit: int, cells: int, device: torch.device) -> Tensor:
    """Bilinear weights (pixels, cells) of the pixels of first..last that lie in 0..limit-1, for `cells` values."""
    pixel = torch.arange(max(first, 0), max(min(last + 1, limit), max(first, 0)), device=device, dtype=torch.float32)
    source = (pixel - first + 0.5) * (cells / max(last - first + 1, 1)) - 0.5
    distance = source.clamp(0, cells - 1).unsqueeze(1) - torch.arange(cells, device=device, dtype=torch.float32)
    return (1 - distance.abs()).clamp(min=0)


def crop_masks(masks: Tensor, boxes: Tensor, index: Tensor, size: int) -> Tensor:
    """The part of mask `index` (N,) of masks (M, H, W) in each box (N, 4) -> (N, size, size), the share of each cell.

    RoIAlign with as many samples a cell as it has pixels, as torchvision trains with. M may be 0: then all is 0.
    """
    if not masks.shape[0]:
        return boxes.new_zeros(len(boxes), size, size)
    rois = torch.cat([index.to(boxes.dtype).unsqueeze(1), boxes], 1)
    return roi_align(masks.unsqueeze(1).to(boxes.dtype), rois, (size, size), 1.0)[:, 0]
