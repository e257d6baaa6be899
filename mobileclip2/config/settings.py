"""The base class and the names of all sections of a profile."""

from __future__ import annotations

import re
import warnings
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, ValidatorFunctionWrapHandler, field_validator, model_validator

from mobileclip2.fingerprint import UNDECLARED


def undeclared(default: Any = ..., **limits: Any) -> Any:
    """Return a field that is part of no fingerprint, because it does not change the bytes of an output."""
    return Field(default, json_schema_extra=UNDECLARED, **limits)


def _name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_]*", value) or value in {"image", "text"}:
        raise ValueError(
            f"'{value}' is not a valid name: use lower-case letters, digits and '_'. "
            "'image' and 'text' are reserved for embeddings"
        )
    return value


def _set_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_./-]*", value) or ".." in value:
        raise ValueError(
            f"'{value}' is not a valid name of an evaluation set: use letters, digits, '-', '_', '.' and '/'"
        )
    return value


Name = Annotated[str, AfterValidator(_name)]
"""name of an asset in the graph"""
SetName = Annotated[str, AfterValidator(_set_name)]
Text = Annotated[str, Field(min_length=1)]
Positive = Annotated[float, Field(gt=0)]

Stage = Literal[
    "raw_shards",
    "filter_scores",
    "selection",
    "selected_shards",
    "augmentations",
    "caption_corpus",
    "captioner",
    "synthetic_captions",
    "teacher",
    "teacher_embeddings",
    "reinforced_dataset",
    "reinforced_shards",
    "student",
    "study",
    "evaluation",
]
"""stage of an asset, as ``compute`` names it"""

RENAMED_KEYS = {"licence": "license"}
"""new key of each deprecated profile key"""


def _has_bool_as_number(given: Any, read: Any) -> bool:
    match given, read:
        case bool(), _:
            return not isinstance(read, bool)
        case dict(), dict():
            return any(map(_has_bool_as_number, given.values(), read.values()))
        case list() | tuple(), list() | tuple():
            return any(map(_has_bool_as_number, given, read))
    return False


class Settings(BaseModel, extra="forbid", frozen=True, allow_inf_nan=False):
    """Base class of all sections. Unknown fields are errors, and so are ``yes`` and ``no`` for a number."""

    @model_validator(mode="before")
    @classmethod
    def _accept_renamed_keys(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        for old, new in RENAMED_KEYS.items():
            if old in values and new in cls.model_fields:
                if new in values:
                    raise ValueError(f"'{old}' is the old name of '{new}'; give '{new}' alone")
                warnings.warn(f"the profile key '{old}' is deprecated; write '{new}'", FutureWarning, stacklevel=2)
                values = {(new if key == old else key): value for key, value in values.items()}
        return values

    @field_validator("*", mode="wrap")
    @classmethod
    def _refuse_bool_as_number(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        read = handler(value)
        if _has_bool_as_number(value, read):  # pydantic reads them as 1 and 0
            raise ValueError("'yes', 'no', 'on', 'off', 'true' and 'false' are not numbers; write a number")
        return read


class Named(Settings):
    """Base class of sections that others name."""

    name: Name
