"""Locations in a profile: a local path or ``s3://bucket/prefix``. No message repeats them, because they can hold a secret."""

from __future__ import annotations

import re
from itertools import islice
from math import prod
from typing import Annotated
from urllib.parse import urlsplit

from braceexpand import braceexpand
from pydantic import AfterValidator

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.-?\d+)?")

MAX_LOCATIONS = 100_000
"""maximum number of locations that the braces of one URL stand for; DataCompDR-1B has 65,536 shards"""


def _path(value: str) -> str:
    if not value.strip():
        raise ValueError("the path is empty; write '.' for the folder of the profile")
    if not value.isprintable():
        raise ValueError("the path contains control characters; write it on one line without them")
    if value.startswith(("~", "$")):
        raise ValueError("'~' and variables are not expanded; write the path in full, or './' before a name like this")
    if "://" in value or _SCHEME.match(value):
        raise ValueError(
            "not a local path: it begins with a scheme such as 'https:' or contains '://'; write './' before a local name "
            "that contains ':'"
        )
    return value


def _location(value: str) -> str:
    if not value.startswith("s3://"):
        if "://" in value or _SCHEME.match(value):
            raise ValueError(
                "the scheme of this URL is not supported; write a local path, or 's3://bucket/prefix' in lower case"
            )
        return _path(value)
    bucket, _, key = value.removeprefix("s3://").partition("/")
    if "@" in bucket or re.search(r"\?.*=", value):
        raise ValueError(
            "the URL contains a password or key; remove it, change it where it is valid, and give credentials to the "
            "process: AWS_... environment variables or a service account"
        )
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", bucket):
        raise ValueError("the URL has no valid bucket; write 's3://bucket/prefix'")
    parts = key.rstrip("/").split("/") if key else []
    if not value.isprintable() or any(part in {"", ".", ".."} for part in parts):
        raise ValueError(
            "the key of the URL contains control characters, '//', '.' or '..'; write 's3://bucket/prefix'"
        )
    return value


def expand(value: str | tuple[str, ...]) -> list[str]:
    """Return every location of a URL or a list of URLs, with braces expanded as in a shell: ``{00000..00099}``, ``{a,b}``.

    Raises:
        ValueError: braces are nested or unbalanced, or stand for more than :data:`MAX_LOCATIONS` locations.
    """
    return [each for url in ((value,) if isinstance(value, str) else value) for each in _expand(url)]


def _expand(url: str) -> list[str]:
    if re.search(r"[{}]", _BRACES.sub("", url)):
        raise ValueError("the braces are nested or unbalanced; write '{00000..00099}' or '{a,b}', or a list of URLs")
    # counted first, because braceexpand stores all values of a range
    if (count := prod(map(_alternatives, _BRACES.findall(url)))) > MAX_LOCATIONS:
        raise ValueError(f"the braces stand for {count:,} locations; at most {MAX_LOCATIONS:,}. Use 'pattern' instead")
    return list(islice(braceexpand(url, escape=False), MAX_LOCATIONS))


def _alternatives(braces: str) -> int:
    if found := _RANGE.fullmatch(braces):
        if max(map(len, found.groups())) > len(str(MAX_LOCATIONS)) + 9:
            return MAX_LOCATIONS + 1
        return abs(int(found[2]) - int(found[1])) + 1
    return max(braces.count(","), 25) + 1 if ".." in braces else braces.count(",") + 1


def _locations(value: str | tuple[str, ...]) -> str | tuple[str, ...]:
    if not value:
        raise ValueError("the list is empty; name at least one folder or file")
    for each in expand(value):
        _location(each)
    return value


def _address(value: str) -> str:
    parts = urlsplit(value) if value.isprintable() else None
    if not parts or parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc or parts.query:
        raise ValueError("not the address of a page; write 'https://host/' without a password and without '?'")
    return value


def _baseline(value: str) -> str:
    # also the name of a model or a git revision, which may contain ':'
    if "://" in value or re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", value):
        raise ValueError("URLs are not supported; give a model, a local file or folder of results, or a git revision")
    if value.startswith("-") or not value.strip() or not value.isprintable():
        raise ValueError("not a model, a local file or folder of results, or a git revision")
    return value


LocalPath = Annotated[str, AfterValidator(_path)]
Location = Annotated[str, AfterValidator(_location)]
Locations = Annotated[str | tuple[str, ...], AfterValidator(_locations)]
"""a location or a list of them, each with braces that :func:`expand` expands"""
HttpAddress = Annotated[str, AfterValidator(_address)]
Baseline = Annotated[str, AfterValidator(_baseline)]
