from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from mobileclip2.store import verified


def test_a_file_is_hashed_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"1")
    sha256 = hashlib.sha256(b"1").hexdigest()
    hashed: list[Path] = []
    plain = verified.file_sha256
    monkeypatch.setattr(verified, "file_sha256", lambda path: hashed.append(path) or plain(path))
    assert not verified.is_recorded(file, sha256)
    assert verified.has_hash(file, sha256) and verified.has_hash(file, sha256) and verified.is_recorded(file, sha256)
    assert len(hashed) == 1
    assert not verified.has_hash(file, "0" * 64)
    file.write_bytes(b"22")
    assert not verified.has_hash(file, sha256)
    assert len(hashed) == 3
