"""How one model wants its images: size, interpolation and normalisation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

Colour = tuple[float, float, float]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Preprocess:
    """Input convention of one image tower; every teacher and student has its own.

    ``size`` is the side of the square input in pixels.
    """

    size: int
    mean: Colour = CLIP_MEAN
    std: Colour = CLIP_STD
    interpolation: str = "bicubic"

    def tensor(self, image: Image.Image) -> torch.Tensor:
        """Normalised float32 ``[3, size, size]`` of an image that already has the right size."""
        return self.normalised(F.pil_to_tensor(image))

    def normalised(self, pixels: torch.Tensor) -> torch.Tensor:
        """Float32 ``[..., 3, H, W]`` of uint8 pixels."""
        mean, std = (torch.tensor(colour, device=pixels.device)[:, None, None] for colour in (self.mean, self.std))
        return pixels.to(torch.float32, memory_format=torch.contiguous_format).div_(255).sub_(mean).div_(std)

    def whole(self, image: Image.Image) -> torch.Tensor:
        """Shorter side to ``size``, centre crop, normalise: what zero-shot evaluation feeds a model."""
        return self.normalised(self.centre(image))

    def centre(self, image: Image.Image) -> torch.Tensor:
        """The same before it is normalised, uint8 ``[3, size, size]``."""
        resized = F.resize(image, [self.size], InterpolationMode(self.interpolation))
        return F.pil_to_tensor(F.center_crop(resized, [self.size, self.size]))
