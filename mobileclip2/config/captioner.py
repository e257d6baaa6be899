"""The ``captioners`` section of a profile."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from mobileclip2.config.model import Model, Weights
from mobileclip2.config.settings import Named, Positive, Settings, Text, undeclared
from mobileclip2.config.training import TrainSettings

CLIP_VOCABULARY = 49_408


class CoCaConfig(Settings):
    """A small CoCa on a frozen image trunk.

    Both text transformers come from open_clip. They have the same width and ``layers`` blocks each.
    """

    trunk: Text = "tf_efficientnet_lite0"
    """name of a timm image model"""
    image_size: int = Field(96, ge=32)
    """side of the square input in pixels"""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[Positive, Positive, Positive] = (0.5, 0.5, 0.5)
    tokens: int = Field(8, ge=1)
    """number of image tokens that the decoder attends to"""
    dropout: float = Field(0.5, ge=0, lt=1)
    """dropout rate of the trunk features during training"""
    width: int = Field(128, ge=8)
    layers: int = Field(1, ge=1)
    heads: int = Field(4, ge=1)
    context_length: int = Field(16, ge=4)
    """maximum text length in tokens, with start and end"""
    vocabulary: int = Field(CLIP_VOCABULARY, ge=514, le=CLIP_VOCABULARY)
    """Number of entries of CLIP's byte-pair vocabulary to use, from the first. A smaller vocabulary splits rare words into
    more tokens and makes the softmax faster, which dominates the cost of a small captioner."""

    @model_validator(mode="after")
    def _width_divides(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self


class GenerationSettings(Settings):
    """Settings for caption sampling. Every field changes the captions and is part of the fingerprint.

    Lengths are in tokens and include the start and end tokens, as in ``open_clip``.
    """

    top_p: float = Field(0.9, gt=0, le=1)
    """probability mass of nucleus sampling"""
    temperature: float = Field(1.0, ge=0)
    """softmax temperature within the nucleus, as in ``open_clip``; 0 is greedy decoding"""
    max_tokens: int = Field(30, ge=3)
    min_tokens: int = Field(6, ge=3)
    """minimum length; the default of ``open_clip`` is 6, which leaves four tokens of text"""
    seed: int = 0
    retries: int = Field(3, ge=0)
    """number of further attempts after a degenerate caption"""

    @model_validator(mode="after")
    def _lengths_agree(self) -> Self:
        if self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens {self.min_tokens} exceeds max_tokens {self.max_tokens}")
        return self


class Captioner(Named):
    """A CoCa captioner: an open_clip model, a small inline model, or a fine-tuned earlier captioner."""

    base: Text | None = None
    """name of an earlier captioner that provides the initial weights"""
    model: Model | None = None
    small: CoCaConfig | None = None
    trunk_weights: Weights | None = None
    """weights of the frozen trunk of a small captioner"""
    train_on: Text | None = None
    """``raw_shards``, ``selected_shards`` or ``caption_corpus/<name>``"""
    train: TrainSettings | None = None
    captions: int = Field(1, ge=1, le=99)
    generation: GenerationSettings = GenerationSettings()
    license: str | None = undeclared(None)
    """of the weights"""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if sum(origin is not None for origin in (self.base, self.model, self.small)) != 1:
            raise ValueError(f"captioner '{self.name}': name exactly one of 'base', 'model' and 'small'")
        if (self.train is None) != (self.train_on is None):
            raise ValueError(f"captioner '{self.name}': give 'train' and 'train_on' together")
        if self.small and not self.train:
            raise ValueError(
                f"captioner '{self.name}': 'train' is missing; a small captioner has no pretrained weights"
            )
        if self.trunk_weights and not self.small:
            raise ValueError(f"captioner '{self.name}': 'trunk_weights' belong to 'small'; remove them")
        if self.trunk_weights and self.trunk_weights.tag:
            raise ValueError(f"captioner '{self.name}': 'trunk_weights' have no tags; give 'path' or 'package'")
        return self
