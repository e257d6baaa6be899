"""Parse the JSON of shards up to a depth at which every reader and writer can process it."""

from __future__ import annotations

import json
from typing import Any

MAX_DEPTH = 400
"""maximum depth of lists and mappings; Python's own limit depends on the depth of the stack"""


def load_json(data: bytes) -> Any:
    """Parse JSON.

    Raises:
        ValueError: it is malformed, or deeper than :data:`MAX_DEPTH`.
    """
    try:
        value = json.loads(data)
        # each level has a bracket, so the usual JSON is not searched
        deep = data.count(b"[") + data.count(b"{") > MAX_DEPTH and _is_deep(value)
    except RecursionError:
        deep = True
    if deep:
        raise ValueError(f"lists and mappings are nested more than {MAX_DEPTH} deep")
    return value


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
