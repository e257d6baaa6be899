"""The ``filtering`` and ``select`` sections of a profile: which pairs are good enough to reinforce and to train on."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from mobileclip2.config.settings import Name, Named, SetName, Settings, undeclared
from mobileclip2.fingerprint import DECLARED_IF_SET


class Filter(Named):
    """A model that scores every pair by the cosine similarity of its image and its caption."""

    model: str
    """``teacher/<name>``, or ``student/<name>`` of a student with pretrained weights"""


class Select(Settings):
    """The pairs that later stages use. Give exactly one of ``keep`` and ``above``."""

    by: Name = undeclared()  # the fingerprint has the scores themselves
    """name of a filter"""
    keep: float | None = Field(None, gt=0, le=1, json_schema_extra=DECLARED_IF_SET)
    """share of all valid pairs, best scores first; ties go to the smaller key"""
    above: float | None = Field(None, ge=-1, le=1, json_schema_extra=DECLARED_IF_SET)
    """lowest score that is kept"""
    near_duplicates: float | None = Field(None, gt=0, le=1, json_schema_extra=DECLARED_IF_SET)
    """cosine similarity of two images from which only the one with the higher score is kept"""
    decontaminate: tuple[SetName, ...] = ()
    """evaluation sets whose pictures are removed"""
    contaminated_above: float = Field(0.95, gt=0, le=1)
    """cosine similarity to a picture of these sets from which a pair is removed"""

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        if (self.keep is None) == (self.above is None):
            raise ValueError("give exactly one of 'keep', a share of all pairs, and 'above', a score")
        return self
