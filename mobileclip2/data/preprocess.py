"""Image preprocessing of a model: size, interpolation and normalization."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F
from torchvision.transforms.functional import pil_modes_mapping

Color = tuple[float, float, float]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

MAX_RESIZED_PIXELS = 1 << 24
"""number of pixels of a resized image above which only its center is computed; they take 64 MiB"""


@dataclass(frozen=True)
class Preprocess:
    """Preprocessing of one image tower. ``size`` is the side of the square input in pixels."""

    size: int
    mean: Color = CLIP_MEAN
    std: Color = CLIP_STD
    interpolation: str = "bicubic"
    resize: str = "shortest"
    """``shortest`` resizes the shorter side and crops the center; ``squash`` resizes both sides, as in SigLIP"""

    def conventions(self) -> dict[str, Any]:
        """Return the settings that every program for the model needs, as JSON stores them."""
        return {
            "size": self.size,
            "mean": list(self.mean),
            "std": list(self.std),
            "interpolation": self.interpolation,
        }

    def tensor(self, image: Image.Image) -> torch.Tensor:
        """Normalize an image of the input size to float32 ``[3, size, size]``."""
        normalized: torch.Tensor = F.normalize(F.to_tensor(image), list(self.mean), list(self.std))
        return normalized

    def whole(self, image: Image.Image) -> torch.Tensor:
        """Resize an image of any size to a square and normalize it, as zero-shot evaluation does."""
        return self.tensor(self.center(image))

    def center(self, image: Image.Image) -> Image.Image:
        """Resize an image to a square as ``resize`` specifies.

        The pixels are those of torchvision. Only a long, thin image differs, by rounding: its resized copy can
        need gigabytes, so above :data:`MAX_RESIZED_PIXELS` the square is resized alone.
        """
        size, shorter = self.size, min(image.size)
        resampling = pil_modes_mapping[InterpolationMode(self.interpolation)]
        if self.resize == "squash":
            return image.resize((size, size), resampling)
        width, height = (int(size * side / shorter) for side in image.size)
        if width * height <= MAX_RESIZED_PIXELS:
            square: Image.Image = F.center_crop(image.resize((width, height), resampling), [size, size])
            return square
        left, right = _center_span(image.width, width, size)
        top, bottom = _center_span(image.height, height, size)
        # Pillow stores the box in single precision, so the image is cropped first. The margin is larger than any filter.
        margin = math.ceil(4 * max(1, shorter / size))
        x, y = max(0, math.floor(left) - margin), max(0, math.floor(top) - margin)
        image = image.crop(
            (x, y, min(image.width, math.ceil(right) + margin), min(image.height, math.ceil(bottom) + margin))
        )
        return image.resize((size, size), resampling, (left - x, top - y, right - x, bottom - y))

    def pixels(self, image: Image.Image) -> torch.Tensor:
        """Convert an image of the input size to uint8 ``[size, size, 3]``."""
        return torch.from_numpy(np.array(image))

    def normalized(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalize pixels ``[b, size, size, 3]`` on their device, as :meth:`tensor` does.

        Return float32 ``[b, 3, size, size]`` in channels-last order, which is fastest for convolutions.
        """
        # A row of pixels as one dimension vectorizes better than a dimension of three colors.
        mean, std = (torch.tensor(each, device=pixels.device).repeat(pixels.shape[2]) for each in (self.mean, self.std))
        rows = pixels.flatten(2)
        normalized = torch.empty(rows.shape, device=pixels.device)
        # On a CPU, one image fits into the cache of a core.
        chunk = 1 if pixels.device.type == "cpu" else max(1, len(rows))
        for source, out in zip(rows.split(chunk), normalized.split(chunk), strict=True):
            out.copy_(source).div_(255).sub_(mean).div_(std)
        return normalized.view(pixels.shape).permute(0, 3, 1, 2)


def _center_span(side: int, resized: int, size: int) -> tuple[float, float]:
    """Return the pixels of a ``side`` that become the ``size`` central pixels of the ``resized`` side."""
    first = round((resized - size) / 2)
    return first * side / resized, (first + size) * side / resized
