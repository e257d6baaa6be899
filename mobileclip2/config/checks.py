"""The ``checks`` section of a profile."""

from __future__ import annotations

from pydantic import Field

from mobileclip2.config.settings import Settings
from mobileclip2.fingerprint import UNDECLARED


class Checks(Settings):
    """Limits of the checks on data: see :mod:`mobileclip2.stages.data_checks`. They are part of no fingerprint."""

    bad_samples: float | None = Field(None, ge=0, le=1, json_schema_extra=UNDECLARED)
    """largest share of bad samples in a group; by default, half of ``max_bad_share``"""
    evaluation_pictures: int | None = Field(0, ge=0, json_schema_extra=UNDECLARED)
    """largest number of samples in a group whose picture is in an evaluation set; None disables the comparison"""
    repeated_captions: float = Field(0.5, ge=0, le=1, json_schema_extra=UNDECLARED)
    """largest share of a group's captions that are equal"""
    degenerate_captions: float = Field(0.5, ge=0, le=1, json_schema_extra=UNDECLARED)
    """largest share of a group's captions that the captioner failed to write"""
    caption_fit: float = Field(0.1, json_schema_extra=UNDECLARED)
    """smallest fit of synthetic captions to their images: 1 is that of real captions, 0 that of captions of other images"""
    scored_pairs: int = Field(64, ge=0, json_schema_extra=UNDECLARED)
    """number of pairs of a group that the teacher scores; 0 disables the comparison"""
    norm_error: float = Field(0.02, ge=0, json_schema_extra=UNDECLARED)
    """largest difference of an embedding's length from 1"""
    repeated_embeddings: float = Field(0.5, ge=0, le=1, json_schema_extra=UNDECLARED)
    """largest share of a group's image embeddings that repeat another one"""
