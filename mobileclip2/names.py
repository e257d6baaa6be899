"""Look up names that users type: resolve short forms and suggest corrections."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

from mobileclip2.errors import UserError


def find(name: str, keys: Iterable[str], kind: str) -> str:
    """Return the key that equals ``name``, or the only key that ends with ``/name``.

    Raises:
        UserError: no key matches, or several keys match. The message lists them.
    """
    keys = list(keys)
    if name in keys:
        return name
    matches = [key for key in keys if key.endswith(f"/{name}")]
    if len(matches) > 1:
        raise UserError(f"'{name}' can be {' or '.join(matches)}; give the full name")
    if matches:
        return matches[0]
    suggestion = did_you_mean(name, keys)
    raise UserError(f"there is no {kind} '{name}'{suggestion or f'; the profile has {listed(keys)}'}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x' or 'y'?``, or an empty string if no key is spelled like ``name``.

    It names up to three keys, the closest first. The last part of a key is compared too.
    """
    by_spelling: dict[str, list[str]] = {}
    for key in known:
        for spelling in dict.fromkeys((key, key.rpartition("/")[2])):
            by_spelling.setdefault(spelling.lower(), []).append(key)
    close = get_close_matches(name.lower(), by_spelling, n=3, cutoff=0.6)
    suggestions = list(dict.fromkeys(key for spelling in close for key in by_spelling[spelling]))[:3]
    return f"; did you mean {' or '.join(map(repr, suggestions))}?" if suggestions else ""


def listed(names: Iterable[str]) -> str:
    """Join names with commas. Return ``none`` if there are no names."""
    return ", ".join(names) or "none"


def is_url(text: str) -> bool:
    """Return whether a text begins as a URL does. Where a local path is expected, it is refused and not repeated."""
    return bool(re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", text))
