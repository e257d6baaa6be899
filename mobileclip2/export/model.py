"""A model as preprocessing, tokenizer and two towers, before and after an export."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from mobileclip2.data.preprocess import Preprocess
from mobileclip2.export.shipped import pixels
from mobileclip2.export.shipped.tokens import Tokenizer
from mobileclip2.models.image_text import ImageText

Tower = Callable[[Tensor], Tensor]
"""Maps a batch of pixels or tokens to features."""


@dataclass(frozen=True)
class ExportModel:
    """The steps of a model. Features are L2-normalized fp32 ``[n, embed_dim]``."""

    pixels: Callable[[Image.Image], Tensor]
    """Maps an RGB image to float32 ``[3, size, size]``."""
    tokens: Callable[[Sequence[str]], Tensor]
    """Maps texts to int64 ``[n, context]``."""
    image: Tower
    """Maps ``[n, 3, size, size]`` to features."""
    text: Tower
    """Maps int64 ``[n, context]`` to features."""


class _Tower(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model


class ImageTower(_Tower):
    """Maps ``pixels [b, 3, size, size]`` to L2-normalized features ``[b, embed_dim]``."""

    def forward(self, pixels: Tensor) -> Tensor:
        """Return L2-normalized features ``[b, embed_dim]``."""
        features: Tensor = self.model.encode_image(pixels, normalize=True)
        return features


class TextTower(_Tower):
    """Maps ``tokens [b, context]`` int64 to L2-normalized features ``[b, embed_dim]``."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Return L2-normalized features ``[b, embed_dim]``."""
        features: Tensor = self.model.encode_text(tokens, normalize=True)
        return features


def of_open_clip(
    model: nn.Module, pixels: Callable[[Image.Image], Tensor], tokens: Callable[[Sequence[str]], Tensor]
) -> ExportModel:
    """Combine an ``open_clip`` model with its transform and tokenizer."""
    return ExportModel(pixels, tokens, ImageTower(model.eval()), TextTower(model))


def trained(image_text: ImageText) -> ExportModel:
    """Return the trained model without fused layers."""
    return of_open_clip(image_text.model, image_text.preprocess.whole, image_text.tokenize)


def with_numpy(preprocess: Preprocess, tokenizer: Tokenizer, image: Tower, text: Tower) -> ExportModel:
    """Combine towers with the preprocessing and the tokenizer that an export contains."""

    def to_pixels(picture: Image.Image) -> Tensor:
        rgb = np.asarray(picture.convert("RGB"))
        return torch.from_numpy(pixels.preprocess(rgb, **preprocess.conventions()))

    return ExportModel(to_pixels, lambda texts: torch.from_numpy(tokenizer(texts)), image, text)
