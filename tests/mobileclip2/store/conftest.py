"""A bucket on an S3 server over HTTP on loopback, and manifests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mobileclip2.store import File, Manifest
from mobileclip2.store import s3 as s3_module
from mobileclip2.store.manifest import identify
from tests.s3 import FaultyS3


@pytest.fixture(scope="module")
def running_s3():
    with FaultyS3() as server:
        yield server


@pytest.fixture
def s3(running_s3, monkeypatch, tmp_path):
    """Return the server without faults. The environment configures its address, and read timeouts are short."""
    for name, value in {
        **running_s3.env,
        "MOBILECLIP2_CACHE": str(tmp_path / "cache"),
        "TMPDIR": str(tmp_path),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(s3_module, "READ_SECONDS", 0.5)
    monkeypatch.setattr(s3_module, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.01)
    running_s3.reset()
    return running_s3


@pytest.fixture
def bucket(s3, tmp_path):
    name = f"bucket-{abs(hash(str(tmp_path)))}"
    s3.create_bucket(name)
    return name


@pytest.fixture
def manifest() -> Callable[..., Manifest]:
    """Return a function that builds a manifest of the folder ``a/<fingerprint>/g00`` with some fields replaced."""

    def build(**changes: Any) -> Manifest:
        fields: dict[str, Any] = {
            "asset": "a",
            "part": "whole",
            "group": "g00",
            "fingerprint": identify("a", "1", {}, {}),
            "code_version": "1",
            "declared": {},
            "inputs": {},
            "samples": 1,
            "skipped": 0,
            "skip_reasons": {},
            "facts": {},
            "files": [File(name="x", size=1, sha256="0")],
        }
        return Manifest(**{**fields, **changes})

    return build
