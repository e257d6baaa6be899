"""The ``teachers`` section of a profile."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from mobileclip2.config.model import Model, Weights
from mobileclip2.config.settings import Named, Settings, Text, undeclared
from mobileclip2.config.training import TrainSettings
from mobileclip2.fingerprint import DECLARED_IF_SET


class Locked(Settings):
    """A locked-image teacher (LiT): frozen pretrained towers with two trained projections."""

    trunk: Text
    """timm name of the image tower, with the tag of its weights if tags differ in preprocessing"""
    size: int = 96
    trunk_weights: Weights
    """a state dict, or the ``tag`` of weights that timm publishes on the hub"""
    trunk_revision: Text | None = Field(None, json_schema_extra=DECLARED_IF_SET)
    """commit of the repository of the ``tag``"""
    text: Text | None = Field(None, json_schema_extra=DECLARED_IF_SET)
    """repository of a transformers text encoder on the hub"""
    text_revision: Text | None = Field(None, json_schema_extra=DECLARED_IF_SET)
    """commit of ``text``"""
    text_weights: Weights | None = None
    """weights of a transformers text encoder, with config and tokenizer in the same folder"""
    embed_dim: int = 256
    hidden: int | None = Field(None, ge=1, json_schema_extra=DECLARED_IF_SET)
    """width of a hidden layer before the image projection; no hidden layer by default"""
    dropout: float | None = Field(None, ge=0, lt=1, json_schema_extra=DECLARED_IF_SET)
    """dropout rate of the features of both towers during training; by default 0"""
    context: int = 32
    text_pooling: Literal["mean", "cls"] | None = Field(None, json_schema_extra=DECLARED_IF_SET)
    """pooling of the text encoder; by default, the one that its folder declares, or ``mean``"""
    train_on: tuple[str, ...] = ("raw_shards",)
    train: TrainSettings

    @model_validator(mode="after")
    def _one_text_tower(self) -> Self:
        if (self.text is None) == (self.text_weights is None):
            raise ValueError("name exactly one of 'text' (a repository of the hub) and 'text_weights' (a file)")
        weights = self.text_weights
        if weights and (weights.tag or (weights.path or "").startswith("s3://")):
            raise ValueError(
                "'text_weights' must be a local file or a file of a package, with config and tokenizer in its folder; "
                "for a repository of the hub, set 'text'"
            )
        if self.text_revision and not self.text:
            raise ValueError("'text_revision' is a commit of the repository 'text'; set 'text', or remove it")
        if self.trunk_revision and not self.trunk_weights.tag:
            raise ValueError("'trunk_revision' goes with 'trunk_weights.tag'; set the tag, or remove it")
        tag = self.trunk.partition(".")[2]
        if tag and self.trunk_weights.tag and tag != self.trunk_weights.tag:
            raise ValueError(f"'trunk' has the tag '{tag}' and 'trunk_weights' the tag '{self.trunk_weights.tag}'")
        return self


class Teacher(Named):
    """A teacher of the ensemble: a pretrained model, or a locked-image model that the pipeline trains."""

    model: Model | None = None
    locked: Locked | None = None
    logit_scale: float | None = Field(None, gt=0, le=1000)
    license: str | None = undeclared(None)
    """of the weights"""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.model is None) == (self.locked is None):
            raise ValueError(f"teacher '{self.name}': name exactly one of 'model' and 'locked'")
        if self.model and not self.model.pretrained:
            raise ValueError(f"teacher '{self.name}': 'model.weights' is missing; a teacher needs pretrained weights")
        return self
