"""Render views for training with torch's vectorized resize.

:func:`mobileclip2.data.augmentation.render` resizes with Pillow and takes three times as long. torch's kernel has weights
of fewer bits, and it always resizes rows first, while Pillow 13 begins with the height if it loses many more pixels. For
photographs 3 in 100 values differ by one of 255 levels and 1 in 100,000 by more, which is less than the loss of JPEG.
Pillow applies RandAugment to the resized crop.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.dlpack import from_dlpack

from mobileclip2.config.augmentation import Translation
from mobileclip2.data.augmentation import View, cropped, operate, render

_KERNELS = ("bicubic", "bilinear")


def render_view(
    image: Image.Image, view: View, size: int, interpolation: str = "bicubic", translation: Translation = "scaled"
) -> torch.Tensor:
    """Render a view of an RGB image as uint8 ``[size, size, 3]``.

    Raises:
        ShardError: the crop does not fit into the image.
    """
    if interpolation not in _KERNELS:
        return _tensor(render(image, view, size, interpolation, translation))
    crop = _pixels(cropped(image, view))
    planes = F.interpolate(crop.permute(2, 0, 1)[None], (size, size), mode=interpolation, antialias=True)[0]
    resized = Image.merge("RGB", [Image.fromarray(plane) for plane in planes[:3].numpy()])
    return _tensor(operate(resized, view, translation))


def _pixels(image: Image.Image) -> torch.Tensor:
    """Return Pillow's memory as uint8 ``[H, W, 4]`` with an unused fourth byte, or a copy ``[H, W, 3]`` of a large image."""
    try:
        pixels: torch.Tensor = from_dlpack(pa.array(image).values)
        return pixels.view(image.height, image.width, 4)
    except ValueError:  # Pillow stores large images in several blocks
        return _tensor(image)


def _tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image))
