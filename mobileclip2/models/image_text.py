"""A two-tower model with its tokenizer and preprocessing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from mobileclip2.data.preprocess import Preprocess
from mobileclip2.models.unpadded import encode_text


@dataclass
class ImageText:
    """An ``open_clip`` model (CLIP, CustomTextCLIP, CoCa or SigLIP) with its tokenizer and preprocessing.

    ``model.encode_image([b, 3, size, size])`` and ``model.encode_text([b, context])`` return features
    ``[b, embed_dim]`` that are not normalized.
    """

    model: nn.Module
    tokenize: Callable[[Sequence[str]], torch.Tensor]
    """Map texts to int64 ``[len(texts), context]``."""
    preprocess: Preprocess
    embed_dim: int
    config: dict[str, Any] = field(default_factory=dict)
    """Content of the model's ``open_clip_config.json``: ``model_cfg`` and ``preprocess_cfg``."""
    tokenizer_files: dict[str, bytes] = field(default_factory=dict)
    """Content of the files of a tokenizer of transformers, by name. Empty for CLIP's tokenizer."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Facts for the manifest: ``{"hub_files": {"repository@commit/file": sha256}}`` of a model of the hub."""

    @torch.inference_mode()
    def embed_images(self, images: torch.Tensor) -> torch.Tensor:
        """Embed images ``[b, 3, size, size]`` as L2-normalized fp32 ``[b, embed_dim]``."""
        model: Any = self.model
        return F.normalize(model.encode_image(images).float(), dim=-1)

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Embed texts as L2-normalized fp32 ``[len(texts), embed_dim]``."""
        return F.normalize(encode_text(self.model, self.tokenize(texts)).float(), dim=-1)
