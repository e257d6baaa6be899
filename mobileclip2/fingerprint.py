"""Fingerprints of settings.

A fingerprint is a hash of canonical JSON. Key order, number formats (``1`` and ``1.0``, ``1e-3`` and ``0.001``) and
explicit defaults do not change it. Every declared field changes it. Fields marked ``undeclared``, such as the number of
workers or the log interval, are left out.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from pydantic import BaseModel

UNDECLARED: dict[str, Any] = {"undeclared": True}
"""Marker ``Field(json_schema_extra=UNDECLARED)`` of a field that does not change the bytes of an output."""

DECLARED_IF_SET: dict[str, Any] = {"declared_if_set": True}
"""Marker of an optional field that a fingerprint contains only if it is set, so that adding the field changes nothing."""


def declared_fields(kind: type[BaseModel]) -> list[str]:
    """Return the names of the fields that are part of the fingerprint."""
    return [name for name in kind.model_fields if not _is_marked(kind, name, UNDECLARED)]


def declared(value: Any) -> Any:
    """Convert settings to plain JSON values without the undeclared fields."""
    if isinstance(value, BaseModel):
        fields = {name: declared(getattr(value, name)) for name in declared_fields(type(value))}
        return {
            name: item
            for name, item in fields.items()
            if item is not None or not _is_marked(type(value), name, DECLARED_IF_SET)
        }
    if isinstance(value, Mapping):
        return {str(key): declared(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [declared(item) for item in value]
    if isinstance(value, PurePath):
        return value.as_posix()
    return value


def _is_marked(kind: type[BaseModel], name: str, marker: dict[str, Any]) -> bool:
    extra = kind.model_fields[name].json_schema_extra
    return isinstance(extra, dict) and marker.items() <= extra.items()


def canonical(value: Any) -> str:
    """Serialize plain values as canonical JSON.

    Raises:
        ValueError: a value is NaN, infinite, or of a type that JSON does not have.
    """

    def normal(item: Any) -> Any:
        if item is None or isinstance(item, str | int):
            return item
        if isinstance(item, float):
            if not math.isfinite(item):
                raise ValueError(f"{item} cannot be part of a fingerprint")
            return int(item) if item.is_integer() else item
        if isinstance(item, Mapping):
            return {str(key): normal(inner) for key, inner in item.items()}
        if isinstance(item, list | tuple):
            return [normal(inner) for inner in item]
        raise ValueError(f"a value of type {type(item).__name__} cannot be part of a fingerprint")

    return json.dumps(normal(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def fingerprint(value: Any) -> str:
    """Return the first 16 hex digits of the sha256 of the canonical form of ``value``."""
    return hashlib.sha256(canonical(declared(value)).encode()).hexdigest()[:16]
