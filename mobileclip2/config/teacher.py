"""The ``teachers`` section of a profile."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from mobileclip2.config.model import Model, Weights
from mobileclip2.config.settings import Name, Settings
from mobileclip2.config.training import TrainSettings
from mobileclip2.fingerprint import DECLARED_IF_SET, UNDECLARED


class Locked(Settings):
    """A locked-image teacher (LiT): frozen pretrained towers with two trained projections."""

    trunk: str
    """timm name of the image tower"""
    size: int = 96
    trunk_weights: Weights
    text_weights: Weights
    """safetensors file of a transformers text encoder, with config and tokenizer in the same folder"""
    embed_dim: int = 256
    context: int = 32
    text_pooling: Literal["mean", "cls"] | None = Field(None, json_schema_extra=DECLARED_IF_SET)
    """pooling of the text encoder; by default, the one that its folder declares, or ``mean``"""
    train_on: tuple[str, ...] = ("raw_shards",)
    train: TrainSettings

    @model_validator(mode="after")
    def _text_tower_is_a_folder(self) -> Self:
        if self.text_weights.tag or (self.text_weights.path or "").startswith("s3://"):
            raise ValueError(
                "'text_weights' must be a local file or a file of a package, with config and tokenizer in its folder"
            )
        return self


class Teacher(Settings):
    """A teacher of the ensemble: a pretrained model, or a locked-image model that the pipeline trains."""

    name: Name
    model: Model | None = None
    locked: Locked | None = None
    logit_scale: float | None = Field(None, gt=0, le=1000)
    license: str | None = Field(None, json_schema_extra=UNDECLARED)
    """of the weights"""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.model is None) == (self.locked is None):
            raise ValueError(f"teacher '{self.name}': name exactly one of 'model' and 'locked'")
        if self.model and not self.model.pretrained:
            raise ValueError(f"teacher '{self.name}': 'model.weights' is missing; a teacher needs pretrained weights")
        return self
