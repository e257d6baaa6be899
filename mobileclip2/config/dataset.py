"""The ``views`` and ``dataset`` sections of a profile: what the reinforced dataset holds."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from mobileclip2.config.augmentation import Augmentation
from mobileclip2.config.settings import Settings


class Views(Settings):
    """Number, seed and augmentation of the stored views of each image."""

    count: int = Field(2, ge=1, le=99)
    seed: int = 0
    augmentation: Augmentation = Augmentation()


class Dataset(Settings):
    """Contents of the reinforced dataset. By default, all teachers and captioners of the profile in their order."""

    teachers: tuple[str, ...] | None = None
    captioners: tuple[str, ...] | None = None
    storage: Literal["pth.gz", "npz"] = "pth.gz"
    """member with the embeddings; both hold bf16 numbers, and ``npz`` stores each in four bytes"""
    images: bool = True

    @model_validator(mode="after")
    def _unique_names(self) -> Self:
        for field, names in {"teachers": self.teachers or (), "captioners": self.captioners or ()}.items():
            if len(set(names)) < len(names):
                raise ValueError(f"{field} must be unique; name each once")
        return self
