"""How one model wants its images: size, interpolation and normalisation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
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
    resize: str = "shortest"
    """how a whole image becomes a square: its shorter side and a centre crop, or ``squash``, as SigLIP was trained"""

    def tensor(self, image: Image.Image) -> torch.Tensor:
        """Normalised float32 ``[3, size, size]`` of an image that already has the right size."""
        return F.normalize(F.to_tensor(image), list(self.mean), list(self.std))

    def whole(self, image: Image.Image) -> torch.Tensor:
        """The whole image as a square, normalised: what zero-shot evaluation feeds a model."""
        return self.tensor(self.centre(image))

    def centre(self, image: Image.Image) -> Image.Image:
        """The whole image as a square: its shorter side is resized to ``size`` and the longer one cut, or both are squashed."""
        sides = [self.size, self.size] if self.resize == "squash" else [self.size]
        resized = F.resize(image, sides, InterpolationMode(self.interpolation))
        return F.center_crop(resized, [self.size, self.size])

    def pixels(self, image: Image.Image) -> torch.Tensor:
        """uint8 ``[size, size, 3]`` of an image that already has the right size: a quarter of the bytes of its tensor."""
        return torch.from_numpy(np.array(image))

    def normalised(self, pixels: torch.Tensor) -> torch.Tensor:
        """What :meth:`tensor` gives, for a batch ``[b, size, size, 3]`` of pixels and on their device.

        ``[b, 3, size, size]`` in channels-last order, as pixels lie already and convolutions like it best.
        """
        # in a row of pixels the three colours go round, which takes vectors better than a dimension of three
        mean, std = (torch.tensor(each, device=pixels.device).repeat(pixels.shape[2]) for each in (self.mean, self.std))
        rows = pixels.flatten(2)
        normalised = torch.empty(rows.shape, device=pixels.device)
        at_once = (
            1 if pixels.device.type == "cpu" else max(1, len(rows))
        )  # an image fits a core's cache, a batch does not
        for some, out in zip(rows.split(at_once), normalised.split(at_once), strict=True):
            out.copy_(some).div_(255).sub_(mean).div_(std)
        return normalised.view(pixels.shape).permute(0, 3, 1, 2)
