"""The fully connected CRF that refines borders (arXiv:1210.5644), with DeepLab v2's parameters as defaults."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vision.ops.permutohedral import PermutohedralLattice

__all__ = ["dense_crf"]


@torch.no_grad()
def dense_crf(
    probability: Tensor,
    image: Tensor,
    *,
    iterations: int = 10,
    appearance: tuple[float, float, float] = (4.0, 67.0, 3.0),
    smoothness: tuple[float, float] = (3.0, 1.0),
) -> Tensor:
    """Class probabilities (C, H, W) after mean-field inference in a CRF over all pairs of pixels.

    probability (C, H, W); image (3, H, W), uint8 or in [0, 1]. `appearance`: weight, standard deviation in pixels and
    in colour steps of 0..255 of the kernel that joins near pixels of like colour; `smoothness`: weight and standard
    deviation in pixels of the kernel of position alone; the defaults are those released with DeepLab v2 on ResNet-101
    (arXiv:1606.00915). Potts compatibility, kernels
    normalised symmetrically. Not differentiable. ValueError when the shapes disagree.
    """
    height, width = probability.shape[1:]
    if image.shape != (3, height, width):
        raise ValueError(f"dense_crf: image {tuple(image.shape)}; expected (3, {height}, {width}) as the probabilities")
    colours = image.float() * (1 if image.dtype == torch.uint8 else 255)
    rows, columns = torch.meshgrid(
        *(torch.arange(side, device=image.device, dtype=torch.float32) for side in (height, width)), indexing="ij"
    )
    place = torch.stack([rows, columns])
    weight, near, like = appearance
    lattice = PermutohedralLattice(torch.cat([place / near, colours / like]).flatten(1).T.contiguous())

    def by_appearance(values: Tensor) -> Tensor:
        return lattice.filter(values.flatten(1).T.contiguous()).T.reshape(values.shape)

    def by_position(values: Tensor) -> Tensor:
        return _gaussian_sums(values, smoothness[1])

    ones = torch.ones(1, height, width, device=image.device)
    kernels = [
        (k, w, k(ones).clamp(min=1e-20).rsqrt()) for k, w in ((by_appearance, weight), (by_position, smoothness[0]))
    ]
    unary = probability.float().clamp(min=1e-8).log()
    refined = unary.softmax(0)
    for _ in range(iterations):
        message = sum(w * norm * kernel(refined * norm) for kernel, w, norm in kernels)
        refined = (unary + message).softmax(0)
    return refined


def _gaussian_sums(values: Tensor, deviation: float) -> Tensor:
    """Sums of values (C, H, W) weighted by a Gaussian of distance, cut off at four deviations."""
    radius = max(1, int(4 * deviation + 0.5))
    offset = torch.arange(-radius, radius + 1, device=values.device, dtype=values.dtype)
    kernel = torch.exp(-0.5 * (offset / deviation) ** 2)
    values = F.conv2d(values[:, None], kernel.view(1, 1, -1, 1), padding=(radius, 0))
    return F.conv2d(values, kernel.view(1, 1, 1, -1), padding=(0, radius))[:, 0]
