"""Preprocess images with numpy. The pixels equal those of Pillow 13 and torchvision bit for bit."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

FRACTION = 22
"""Fractional bits of Pillow's fixed-point weights."""
SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}


def preprocess(
    image: np.ndarray, *, size: int, mean: Sequence[float], std: Sequence[float], interpolation: str
) -> np.ndarray:
    """Resize the shorter side to ``size``, crop the center and normalize.

    ``image`` is uint8 RGB ``[height, width, 3]``. The result is float32 ``[3, size, size]``.
    """
    square = center(image, size, interpolation)
    normal = (square.astype(np.float32) / np.float32(255) - np.array(mean, np.float32)) / np.array(std, np.float32)
    return np.ascontiguousarray(normal.transpose(2, 0, 1))


def center(image: np.ndarray, size: int, interpolation: str) -> np.ndarray:
    """Resize the shorter side of uint8 ``[height, width, 3]`` to ``size``, with antialiasing, and crop the central square.

    Only the pixels of the square are computed, because the whole image can need gigabytes if it is long and thin.
    """
    shorter = min(image.shape[:2])
    height, width = (int(size * side / shorter) for side in image.shape[:2])
    # Each pass rounds, so the order counts. Pillow begins with the height if it loses more than twice as many pixels.
    if image.shape[0] - height > 2 * max(0, image.shape[1] - width):
        return _columns(resample(image, height, size, interpolation), width, size, interpolation)
    return resample(_columns(image, width, size, interpolation), height, size, interpolation)


def _columns(image: np.ndarray, width: int, size: int, interpolation: str) -> np.ndarray:
    return resample(image.swapaxes(0, 1), width, size, interpolation).swapaxes(0, 1)


def resample(image: np.ndarray, length: int, size: int, interpolation: str) -> np.ndarray:
    """Resample uint8 ``[n, ...]`` along the first axis to ``[length, ...]`` and return the ``size`` central rows."""
    start = round((length - size) / 2)
    if image.shape[0] == length:
        return image[start : start + size]
    scale = image.shape[0] / length
    stretch = max(scale, 1.0)
    reach = SUPPORT[interpolation] * stretch
    rows = []
    for row in range(start, start + size):
        middle = (row + 0.5) * scale
        first, end = max(int(middle - reach + 0.5), 0), min(int(middle + reach + 0.5), image.shape[0])
        weights = [_weight((source - middle + 0.5) / stretch, interpolation) for source in range(first, end)]
        total = sum(weights)
        fixed = [math.floor(weight / total * (1 << FRACTION) + 0.5) for weight in weights]
        summed = np.tensordot(np.array(fixed, np.int64), image[first:end].astype(np.int64), 1)
        rows.append((summed + (1 << (FRACTION - 1))) >> FRACTION)
    return np.stack(rows).clip(0, 255).astype(np.uint8)


def _weight(distance: float, interpolation: str) -> float:
    """Evaluate the triangle kernel or Keys' cubic kernel with a = -1/2."""
    distance = abs(distance)
    if distance >= SUPPORT[interpolation]:
        return 0.0
    if interpolation == "bilinear":
        return 1 - distance
    if distance < 1:
        return (1.5 * distance - 2.5) * distance * distance + 1
    return ((distance - 5) * distance + 8) * distance * -0.5 + 2
