"""The ``captioners`` section of a profile."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from mobileclip2.config.captioner_model import CoCaConfig, GenerationSettings
from mobileclip2.config.model import Model, Weights
from mobileclip2.config.settings import Name, Settings, Text
from mobileclip2.config.training import TrainSettings
from mobileclip2.fingerprint import UNDECLARED


class Captioner(Settings):
    """A CoCa captioner: an open_clip model, a small inline model, or a fine-tuned earlier captioner."""

    name: Name
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
    license: str | None = Field(None, json_schema_extra=UNDECLARED)
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
        return self
