"""Small pictures for tests of people's own files."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def picture(seed: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    """Return a picture of soft random colors."""
    coarse = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def jpeg(seed: int, size: tuple[int, int] = (64, 48)) -> bytes:
    """Return the bytes of :func:`picture` as a JPEG."""
    with io.BytesIO() as file:
        picture(seed, size).save(file, "JPEG", quality=90)
        return file.getvalue()
