"""Locations in a profile: a local path or ``s3://bucket/prefix``. No message repeats them, because they can hold a secret."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


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
    if not _BUCKET.fullmatch(bucket):
        raise ValueError("the URL has no valid bucket; write 's3://bucket/prefix'")
    parts = key.rstrip("/").split("/") if key else []
    if not value.isprintable() or any(part in {"", ".", ".."} for part in parts):
        raise ValueError(
            "the key of the URL contains control characters, '//', '.' or '..'; write 's3://bucket/prefix'"
        )
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
Baseline = Annotated[str, AfterValidator(_baseline)]
