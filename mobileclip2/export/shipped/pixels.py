"""Preprocess images with numpy. The pixels equal those of Pillow and torchvision bit for bit."""

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
    across = resample(image.swapaxes(0, 1), width, _central(width, size), interpolation).swapaxes(0, 1)
    return resample(across, height, _central(height, size), interpolation)


def _central(length: int, size: int) -> range:
    first = round((length - size) / 2)
    return range(first, first + size)


def resample(image: np.ndarray, length: int, rows: range, interpolation: str) -> np.ndarray:
    """Return the ``rows`` of uint8 ``[n, ...]`` resampled along the first axis to ``[length, ...]``."""
    if image.shape[0] == length:
        return image[rows.start : rows.stop]
    scale = image.shape[0] / length
    stretch = max(scale, 1.0)
    reach = SUPPORT[interpolation] * stretch
    resampled = []
    for row in rows:
        middle = (row + 0.5) * scale
        first, end = max(int(middle - reach + 0.5), 0), min(int(middle + reach + 0.5), image.shape[0])
        weights = [_weight((source - middle + 0.5) / stretch, interpolation) for source in range(first, end)]
        total = sum(weights)
        fixed = [math.floor(weight / total * (1 << FRACTION) + 0.5) for weight in weights]
        summed = np.tensordot(np.array(fixed, np.int64), image[first:end].astype(np.int64), 1)
        resampled.append((summed + (1 << (FRACTION - 1))) >> FRACTION)
    return np.stack(resampled).clip(0, 255).astype(np.uint8)


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
