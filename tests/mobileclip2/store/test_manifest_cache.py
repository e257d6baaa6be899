from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mobileclip2.errors import DamagedOutput
from mobileclip2.store import Artifact, ArtifactFolder, LocalStorage, Manifest, artifact
from mobileclip2.store.manifest import identify
from mobileclip2.store.manifest_cache import ManifestCache
from mobileclip2.store.stat_cache import StatCache


@pytest.fixture
def output(tmp_path: Path, manifest: Callable[..., Manifest], monkeypatch: pytest.MonkeyPatch) -> ArtifactFolder:
    """Return an artifact with one file of four bytes, in a store with an empty cache."""
    monkeypatch.setenv("MOBILECLIP2_CACHE", str(tmp_path / "cache"))
    folder = ArtifactFolder(LocalStorage(tmp_path / "store"), "a", identify("a", "1", {}, {}), "g00")
    folder.write("x", b"1234")
    folder.commit(manifest(files=folder.describe(["x"])))
    return folder


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the files that are hashed during a test."""
    names: list[str] = []
    plain = artifact.file_sha256
    monkeypatch.setattr(artifact, "file_sha256", lambda path: names.append(path.name) or plain(path))
    return names


def change(output: ArtifactFolder, data: bytes) -> None:
    """Write to the file in place, which this project never does."""
    path = output.fetch("x")
    path.write_bytes(data)
    os.utime(path, ns=(1, 1))


def test_an_unchanged_artifact_is_neither_read_nor_hashed(
    output: ArtifactFolder, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ManifestCache().of(output)
    monkeypatch.setattr(output, "read", lambda name: pytest.fail(f"{name} was read"))
    assert ManifestCache().of(output) == first and first is not None and first.size == 4
    assert hashed == []


def test_a_folder_without_a_manifest_has_no_summary(output: ArtifactFolder) -> None:
    output.delete("manifest.json")
    assert ManifestCache().of(output) is None


def test_a_known_artifact_is_hashed_after_a_change(output: ArtifactFolder, hashed: list[str]) -> None:
    ManifestCache().of(output)
    change(output, b"4321")
    for _ in range(2):
        with pytest.raises(DamagedOutput, match=r"a/\w+/g00/x differs from its manifest"):
            ManifestCache().of(output)
    change(output, b"1234")
    assert ManifestCache().of(output) is not None
    assert hashed == ["x"] * 3


def test_an_unknown_artifact_is_compared_by_size(output: ArtifactFolder, hashed: list[str]) -> None:
    change(output, b"4321")
    assert ManifestCache().of(output) is not None and hashed == []
    change(output, b"123")
    with pytest.raises(DamagedOutput, match="differs from its manifest"):
        ManifestCache().of(output)


def test_every_byte_is_hashed_on_request(output: ArtifactFolder, hashed: list[str]) -> None:
    ManifestCache().of(output)
    assert ManifestCache(every_byte=True).of(output) is not None and hashed == ["x"]


@pytest.mark.parametrize("forged", ["", "no json", "[]", '{"asset": "a"}'])
def test_a_forged_summary_is_ignored(output: ArtifactFolder, forged: str) -> None:
    first = ManifestCache().of(output)
    token = output.storage.version_token(output.key("manifest.json"))
    assert token is not None and first is not None
    files = output.storage.version_token(output.key("x"))
    url = f"{output.storage.url}/{output.prefix}"
    StatCache().put(url, token, f"{files}\n{forged}")
    assert ManifestCache().of(output) == first
    other = first.model_copy(update={"group": "g01", "data_version": "0" * 32})
    StatCache().put(url, token, f"{files}\n{other.model_dump_json()}")
    assert ManifestCache().of(output) == first


def test_a_doubted_artifact_is_hashed(output: ArtifactFolder, hashed: list[str]) -> None:
    """The bytes change, and size and times do not."""
    path = output.fetch("x")
    summary, status = ManifestCache().of(output), path.stat()
    assert summary is not None
    path.write_bytes(b"4321")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert ManifestCache().of(output) == summary and hashed == []
    with pytest.raises(DamagedOutput, match=r"g00/x: it no longer matches its manifest; run again"):
        Artifact(output.storage, summary).fetch("x")
    with pytest.raises(DamagedOutput, match="differs from its manifest"):
        ManifestCache().of(output)
