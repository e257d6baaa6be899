"""Names that people type: the short form of a key, and the nearest names to a mistyped one."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from mobileclip2.errors import UserError


def find(name: str, keys: Iterable[str], kind: str) -> str:
    """Return the key with this name, or the only key whose last parts are this name.

    Raises:
        UserError: no key has this name, or several have; names them.
    """
    keys = list(keys)
    if name in keys:
        return name
    found = [key for key in keys if key.endswith(f"/{name}")]
    if len(found) > 1:
        raise UserError(f"'{name}' can be {' or '.join(found)}; give the whole name")
    if found:
        return found[0]
    near = did_you_mean(name, keys)
    raise UserError(f"there is no {kind} '{name}'{near or f'; the profile has {listed(keys)}'}")


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Return up to three names that are spelled like ``name``, the nearest first. A key is also known by its last part."""
    known = list(known)
    by_spelling: dict[str, list[str]] = {}
    for key in known:
        for spelling in dict.fromkeys((key, key.rpartition("/")[2])):
            by_spelling.setdefault(spelling.lower(), []).append(key)
    close = get_close_matches(name.lower(), by_spelling, n=3, cutoff=0.6)
    return list(dict.fromkeys(key for spelling in close for key in by_spelling[spelling]))[:3]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x' or 'y'?``, or nothing if no name is near."""
    near = nearest(name, known)
    return f"; did you mean {' or '.join(repr(each) for each in near)}?" if near else ""


def listed(names: Iterable[str]) -> str:
    """Join names with commas."""
    return ", ".join(names) or "none"
