"""Changes of colour as one affine map of RGB: brightness, contrast, saturation and hue in a single pass over bytes."""

from __future__ import annotations

import cv2
import numpy as np

__all__ = ["apply_colour", "colour_matrix"]

_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_FROM_YIQ = np.linalg.inv(_TO_YIQ)


def colour_matrix(
    mean: np.ndarray, *, brightness: float = 1.0, contrast: float = 1.0, saturation: float = 1.0, hue: float = 0.0
) -> np.ndarray:
    """The (3, 4) affine map of RGB bytes that has these effects, in this order: hue, saturation, contrast, brightness.

    Factors are multipliers with 1 = unchanged; contrast stretches around the grey of `mean` (3,), the image's mean
    colour; saturation moves every pixel from its own grey; hue turns the chroma plane of YIQ by `hue` turns (1 = full
    circle). The last column is the constant.
    """
    turn = 2 * np.pi * hue
    rotation = np.array([[1, 0, 0], [0, np.cos(turn), -np.sin(turn)], [0, np.sin(turn), np.cos(turn)]])
    linear = _FROM_YIQ @ rotation @ _TO_YIQ if hue else np.eye(3)
    linear = (saturation * np.eye(3) + (1 - saturation) * np.outer(np.ones(3), _LUMA)) @ linear
    constant = np.full(3, (1 - contrast) * float(_LUMA @ mean) * brightness)
    return np.column_stack([linear * (contrast * brightness), constant])


def apply_colour(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """`image` uint8 (H, W, 3) mapped by `matrix` (3, 4), rounded and clipped to bytes."""
    return cv2.transform(image, matrix)
