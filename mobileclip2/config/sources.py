"""The sections of a profile that name images, captions and evaluation sets."""

from __future__ import annotations

from pydantic import Field

from mobileclip2.config.location import Location
from mobileclip2.config.settings import Name, SetName, Settings
from mobileclip2.fingerprint import UNDECLARED


class Source(Settings):
    """A local folder or ``s3://bucket/prefix`` of WebDataset tars."""

    name: Name = "source"
    url: Location = Field(json_schema_extra=UNDECLARED)
    pattern: str = "**/*.tar"
    license: str | None = Field(None, json_schema_extra=UNDECLARED)
    """license of the images and texts; the model card of an export names every license"""


class Corpus(Settings):
    """A small, clean image-caption dataset for fine-tuning."""

    name: Name
    url: Location = Field(json_schema_extra=UNDECLARED)
    pattern: str = "**/*.tar"
    license: str | None = Field(None, json_schema_extra=UNDECLARED)
    """of the images and texts"""


class EvaluationSource(Settings):
    """An evaluation set in the published WebDataset layout. ``name`` is its key in DataComp's results."""

    name: SetName
    url: Location = Field(json_schema_extra=UNDECLARED)
