"""Parse JSON within limits: a depth at which every reader and writer can process it, and one value for each field."""

from __future__ import annotations

import json
from typing import Any

MAX_DEPTH = 400
"""maximum depth of lists and mappings; Python's own limit depends on the depth of the stack"""


def load_json(data: bytes) -> Any:
    """Parse JSON.

    Raises:
        ValueError: it is malformed, deeper than :data:`MAX_DEPTH`, or has a field twice.
    """
    try:
        value = json.loads(data, object_pairs_hook=unique_fields)
        # each level has a bracket, so the usual JSON is not searched
        deep = data.count(b"[") + data.count(b"{") > MAX_DEPTH and _is_deep(value)
    except RecursionError:
        deep = True
    if deep:
        raise ValueError(f"lists and mappings are nested more than {MAX_DEPTH} deep")
    return value


def unique_fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a dict from the fields of a JSON object, as ``object_pairs_hook`` of ``json.loads``.

    By default, ``json.loads`` keeps the last of several values of a field.

    Raises:
        ValueError: a field occurs twice.
    """
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the field '{twice[:60]}' occurs twice")
    return fields


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for each in level
            for child in (each.values() if isinstance(each, dict) else each)
            if isinstance(child, list | dict)
        ]
        if not level:
            return False
    return True
