"""Views as training draws them: those of :func:`mobileclip2.data.augmentation.render`, resized by torch's vectorized kernel.

The kernel takes a third of the time. It keeps its weights in fewer bits than Pillow's and always goes along rows first, where
Pillow begins with columns if there are more of them. Of the numbers of a view of a photograph some 3 in 100 differ by one of
255 levels, 1 in 100,000 by more: a small part of what JPEG took away. RandAugment is Pillow's, on the resized crop.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.dlpack import from_dlpack

from mobileclip2.data.augmentation import View, check_crop, operate, render

_KERNELS = ("bicubic", "bilinear")


def draw(image: Image.Image, view: View, size: int, interpolation: str = "bicubic") -> torch.Tensor:
    """Render a view of an RGB image, uint8 ``[size, size, 3]``.

    Raises:
        ShardError: the crop does not fit the image, so this is not the image that the view was made for.
    """
    if interpolation not in _KERNELS:
        return _tensor(render(image, view, size, interpolation))
    check_crop(view, *image.size)
    top, left, height, width = view.crop
    crop = _pixels(image.crop((left, top, left + width, top + height)))
    planes = F.interpolate(crop.permute(2, 0, 1)[None], (size, size), mode=interpolation, antialias=True)[0]
    resized = Image.merge("RGB", [Image.fromarray(plane) for plane in planes[:3].numpy()])
    return _tensor(operate(resized, view))


def _pixels(image: Image.Image) -> torch.Tensor:
    """uint8 ``[H, W, 4]``, Pillow's own memory with its unused fourth byte, or ``[H, W, 3]`` of an image that is too large."""
    try:
        pixels: torch.Tensor = from_dlpack(pa.array(image).values)
        return pixels.view(image.height, image.width, 4)
    except ValueError:  # Pillow keeps it in several blocks
        return _tensor(image)


def _tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image))
