"""Identity of what a stage declares.

A fingerprint hashes a canonical JSON form, so that key order, number formats (``1`` and ``1.0``, ``1e-3`` and ``0.001``)
and defaults written out do not change it, and every declared field does. Fields marked ``undeclared`` (batch sizes that do
not change bytes, workers, log intervals) are left out.
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
"""``Field(json_schema_extra=UNDECLARED)``: the field never changes the bytes of an output."""


def declared_fields(kind: type[BaseModel]) -> list[str]:
    """Names of the fields that change bytes."""
    return [
        name
        for name, field in kind.model_fields.items()
        if not (isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("undeclared"))
    ]


def declared(value: Any) -> Any:
    """Plain JSON form of a settings object without its undeclared fields."""
    if isinstance(value, BaseModel):
        return {name: declared(getattr(value, name)) for name in declared_fields(type(value))}
    if isinstance(value, Mapping):
        return {str(key): declared(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [declared(item) for item in value]
    if isinstance(value, PurePath):
        return value.as_posix()
    return value


def canonical(value: Any) -> str:
    """Canonical JSON text of plain values.

    Raises:
        ValueError: for NaN, infinities and types that JSON has no form for.
    """

    def normal(item: Any) -> Any:
        if isinstance(item, bool) or item is None or isinstance(item, str):
            return item
        if isinstance(item, int):
            return item
        if isinstance(item, float):
            if not math.isfinite(item):
                raise ValueError(f"{item} has no place in a fingerprint")
            return int(item) if item.is_integer() else item
        if isinstance(item, Mapping):
            return {str(key): normal(inner) for key, inner in item.items()}
        if isinstance(item, list | tuple):
            return [normal(inner) for inner in item]
        raise ValueError(f"{type(item).__name__} has no place in a fingerprint")

    return json.dumps(normal(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def fingerprint(value: Any) -> str:
    """16 hex digits over the canonical form of ``value``."""
    return hashlib.sha256(canonical(declared(value)).encode()).hexdigest()[:16]
