"""The exported preprocessing equals Pillow and torchvision."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mobileclip2.data.preprocess import Preprocess
from mobileclip2.export.shipped.pixels import preprocess


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("height", "width", "size"),
    [
        *[(96, 96, 48), (48, 48, 48), (31, 57, 48), (300, 233, 64), (48, 200, 48), (2, 90, 16), (65, 64, 64)],
        *[(364, 161, 64), (381, 34, 32), (141, 34, 16)],  # Pillow resizes their height first
    ],
)
def test_pixels_equal_torchvision_bit_for_bit(height, width, size, interpolation):
    image = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)
    convention = Preprocess(size, interpolation=interpolation)
    theirs = convention.whole(Image.fromarray(image)).numpy()
    ours = preprocess(image, size=size, mean=convention.mean, std=convention.std, interpolation=interpolation)
    assert ours.dtype == np.float32
    assert np.array_equal(ours, theirs)
