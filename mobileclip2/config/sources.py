"""The sections of a profile that name images, captions and evaluation sets."""

from __future__ import annotations

import re
from typing import Annotated, Self

from pathspec import PathSpec
from pydantic import AfterValidator, Field, model_validator

from mobileclip2.config.location import Location, Locations
from mobileclip2.config.settings import Name, Named, SetName, Settings, Text, undeclared
from mobileclip2.fingerprint import DECLARED_IF_SET


def _patterns(value: str | tuple[str, ...]) -> str | tuple[str, ...]:
    for each in (value,) if isinstance(value, str) else value:
        try:
            PathSpec.from_lines("gitignore", [each])
        except (ValueError, re.error):
            raise ValueError(f"'{each}' is not a gitignore pattern; write one such as '**/*.tar'") from None
    return value


Patterns = Annotated[str | tuple[str, ...], AfterValidator(_patterns)]
"""gitignore patterns; a file that matches one of them is read"""

CaptionKeys = tuple[Text, ...] | None
"""members, or fields of ``json``, with a caption; the first valid one counts. By default ``txt``, then ``caption``"""

OWN = "reinforced_dataset"
"""name of the reinforced dataset that a profile makes, among the datasets of a student"""


class Source(Named):
    """Local folders, tars or ``s3://bucket/prefix`` of WebDataset tars."""

    name: Name = "source"
    url: Locations = undeclared()
    pattern: Patterns = "**/*.tar"
    caption_keys: CaptionKeys = Field(None, min_length=1, json_schema_extra=DECLARED_IF_SET)
    license: str | None = undeclared(None)
    """license of the images and texts; the model card of an export names every license"""


class Corpus(Source):
    """A small, clean image-caption dataset for fine-tuning."""

    name: Name


class ReinforcedTeacher(Named):
    """A teacher whose embeddings a published reinforced dataset holds."""

    dim: int | None = Field(None, ge=1)
    """number of its embeddings' dimensions; by default read from the shards, if they state it, or if it is the only teacher"""
    logit_scale: float = Field(gt=0)


class Images(Settings):
    """Shards with the images, and the captions if necessary, of reinforced shards without images."""

    url: Locations = undeclared()
    pattern: Patterns = "**/*.tar"
    uid: bool = False
    """whether the key of a reinforced sample is the ``uid`` in the ``json`` of the image's sample, and not its key"""


class ReinforcedShards(Named):
    """Published reinforced shards, as DataCompDR and DFNDR, or a reinforced dataset of another store of this project."""

    url: Locations = undeclared()
    pattern: Patterns = "**/*.tar"
    teachers: tuple[ReinforcedTeacher, ...] = Field(min_length=1)
    """the teachers in the order of their embeddings"""
    images: Images | None = None
    license: str | None = undeclared(None)
    """license of the images, texts and embeddings"""

    @model_validator(mode="after")
    def _unique_teachers(self) -> Self:
        names = [teacher.name for teacher in self.teachers]
        if len(set(names)) < len(names):
            raise ValueError(f"reinforced '{self.name}': two teachers have the same name")
        if self.name == OWN:
            raise ValueError(f"'{OWN}' is the name of the dataset that this profile makes; use another name")
        return self


class EvaluationSource(Named):
    """An evaluation set in the published WebDataset layout. ``name`` is its key in DataComp's results."""

    name: SetName
    url: Location = undeclared()
