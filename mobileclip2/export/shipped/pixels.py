"""What an image tower is fed, with numpy alone: pixel for pixel what Pillow and torchvision give."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

FRACTION = 22
"""bits after the point of a weight; Pillow's fixed-point form"""
SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}


def preprocess(
    image: np.ndarray, *, size: int, mean: Sequence[float], std: Sequence[float], interpolation: str
) -> np.ndarray:
    """Shorter side to ``size``, center crop, normalize.

    ``image`` is uint8 RGB ``[height, width, 3]``; the result float32 ``[3, size, size]``.
    """
    square = center(resize(image, size, interpolation), size)
    normal = (square.astype(np.float32) / np.float32(255) - np.array(mean, np.float32)) / np.array(std, np.float32)
    return np.ascontiguousarray(normal.transpose(2, 0, 1))


def resize(image: np.ndarray, size: int, interpolation: str) -> np.ndarray:
    """uint8 ``[height, width, 3]`` with the shorter side ``size``; shrinking averages over all pixels."""
    height, width = image.shape[:2]
    shorter = min(height, width)
    across = resample(image.swapaxes(0, 1), int(size * width / shorter), interpolation).swapaxes(0, 1)
    return resample(across, int(size * height / shorter), interpolation)


def center(image: np.ndarray, size: int) -> np.ndarray:
    """Cut the square in the middle."""
    top, left = (round((side - size) / 2) for side in image.shape[:2])
    return image[top : top + size, left : left + size]


def resample(image: np.ndarray, length: int, interpolation: str) -> np.ndarray:
    """uint8 ``[length, ...]`` from ``[n, ...]``, along the first axis."""
    if image.shape[0] == length:
        return image
    scale = image.shape[0] / length
    stretch = max(scale, 1.0)
    reach = SUPPORT[interpolation] * stretch
    rows = []
    for place in range(length):
        middle = (place + 0.5) * scale
        first, end = max(int(middle - reach + 0.5), 0), min(int(middle + reach + 0.5), image.shape[0])
        weights = [_weight((source - middle + 0.5) / stretch, interpolation) for source in range(first, end)]
        total = sum(weights)
        fixed = [math.floor(weight / total * (1 << FRACTION) + 0.5) for weight in weights]
        summed = np.tensordot(np.array(fixed, np.int64), image[first:end].astype(np.int64), 1)
        rows.append((summed + (1 << (FRACTION - 1))) >> FRACTION)
    return np.stack(rows).clip(0, 255).astype(np.uint8)


def _weight(distance: float, interpolation: str) -> float:
    """Evaluate a triangle, or Keys' cubic with a = -1/2."""
    distance = abs(distance)
    if distance >= SUPPORT[interpolation]:
        return 0.0
    if interpolation == "bilinear":
        return 1 - distance
    if distance < 1:
        return (1.5 * distance - 2.5) * distance * distance + 1
    return ((distance - 5) * distance + 8) * distance * -0.5 + 2
