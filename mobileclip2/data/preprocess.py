"""How one model wants its images: size, interpolation and normalization."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

Color = tuple[float, float, float]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Preprocess:
    """Input convention of one image tower; every teacher and student has its own.

    ``size`` is the side of the square input in pixels.
    """

    size: int
    mean: Color = CLIP_MEAN
    std: Color = CLIP_STD
    interpolation: str = "bicubic"
    resize: str = "shortest"
    """how a whole image becomes a square: its shorter side and a center crop, or ``squash``, as SigLIP was trained"""

    def tensor(self, image: Image.Image) -> torch.Tensor:
        """Return the normalized float32 ``[3, size, size]`` of an image that already has the right size."""
        normalized: torch.Tensor = F.normalize(F.to_tensor(image), list(self.mean), list(self.std))
        return normalized

    def whole(self, image: Image.Image) -> torch.Tensor:
        """Crop an image to a square and normalize it, as zero-shot evaluation does."""
        return self.tensor(self.center(image))

    def center(self, image: Image.Image) -> Image.Image:
        """Resize an image to a square: crop the longer side at its center, or squash both sides."""
        sides = [self.size, self.size] if self.resize == "squash" else [self.size]
        resized = F.resize(image, sides, InterpolationMode(self.interpolation))
        square: Image.Image = F.center_crop(resized, [self.size, self.size])
        return square

    def pixels(self, image: Image.Image) -> torch.Tensor:
        """Return the uint8 ``[size, size, 3]`` of an image that already has the right size."""
        return torch.from_numpy(np.array(image))

    def normalized(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalize a batch of pixels ``[b, size, size, 3]`` on its device, as :meth:`tensor` does for one image.

        Returns float32 ``[b, 3, size, size]`` in channels-last order: pixels have it already, and convolutions are fastest in
        it.
        """
        # in a row of pixels the three colors go round, which takes vectors better than a dimension of three
        mean, std = (torch.tensor(each, device=pixels.device).repeat(pixels.shape[2]) for each in (self.mean, self.std))
        rows = pixels.flatten(2)
        normalized = torch.empty(rows.shape, device=pixels.device)
        at_once = (
            1 if pixels.device.type == "cpu" else max(1, len(rows))
        )  # an image fits a core's cache, a batch does not
        for some, out in zip(rows.split(at_once), normalized.split(at_once), strict=True):
            out.copy_(some).div_(255).sub_(mean).div_(std)
        return normalized.view(pixels.shape).permute(0, 3, 1, 2)
