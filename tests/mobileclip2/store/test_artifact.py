from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mobileclip2.errors import DamagedOutput
from mobileclip2.store import Artifact, ArtifactFolder, LocalStorage, Manifest
from mobileclip2.store.artifact import artifact_prefix
from mobileclip2.store.manifest import identify

F = identify("a", "1", {}, {})


def test_a_changed_manifest_is_rejected(tmp_path: Path, manifest: Callable[..., Manifest]) -> None:
    output = ArtifactFolder(LocalStorage(tmp_path), "a", F, "g00")
    output.commit(manifest())
    assert output.read_manifest() == manifest()
    text = output.read("manifest.json").decode()
    for before, after in (
        ('"samples": 1', '"samples": 7'),
        ('"declared": {}', '"declared": {"seed": 1}'),
        ('"inputs": {}', '"inputs": {"raw_shards": "0"}'),
        ('"code_version": "1"', '"code_version": "2"'),
    ):
        assert before in text
        output.write("manifest.json", text.replace(before, after).encode())
        with pytest.raises(DamagedOutput, match=rf"a/{F}/g00/manifest\.json: .* but it says"):
            output.read_manifest()


def test_a_manifest_of_another_folder_is_rejected(tmp_path: Path, manifest: Callable[..., Manifest]) -> None:
    store = LocalStorage(tmp_path)
    ArtifactFolder(store, "a", F, "g00").commit(manifest())
    store.write(f"a/{F}/g01/manifest.json", store.read(f"a/{F}/g00/manifest.json"))
    with pytest.raises(DamagedOutput, match=rf"g01/manifest\.json: .*it belongs to a/{F}/g00"):
        ArtifactFolder(store, "a", F, "g01").read_manifest()


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"{}", b"\xff"])
def test_a_damaged_manifest_is_named(tmp_path: Path, damage: bytes) -> None:
    output = ArtifactFolder(LocalStorage(tmp_path), "a", "f", "g00")
    output.write("manifest.json", damage)
    with pytest.raises(DamagedOutput, match=r"manifest\.json"):
        output.read_manifest()


def test_missing_and_changed_files_are_named(tmp_path: Path, manifest: Callable[..., Manifest]) -> None:
    output = ArtifactFolder(LocalStorage(tmp_path), "a", "f", "g00")
    output.write("x", b"1")
    output.write("y", b"2")
    closed = manifest(files=output.describe(["x", "y"]))
    assert output.verify(closed) == []
    output.write("x", b"3")
    (tmp_path / "a/f/g00/y").unlink()
    assert output.verify(closed) == ["a/f/g00/x differs from its manifest", "a/f/g00/y is gone"]


def test_slashes_in_evaluation_set_names_are_replaced() -> None:
    assert artifact_prefix("evaluation/s0", "f", "vtab/pets") == "evaluation/s0/f/vtab-pets"
    assert artifact_prefix("student/s0", "f", None) == "student/s0/f"


def test_a_folder_without_a_manifest_is_not_an_artifact(tmp_path: Path, manifest: Callable[..., Manifest]) -> None:
    output = ArtifactFolder(LocalStorage(tmp_path), "a", F, "g00")
    output.write("x", b"1")
    assert output.read_manifest() is None and output.names() == {"x"}
    output.commit(manifest(files=output.describe(["x"])))
    assert output.read_manifest() is not None and output.has("manifest.json")


def test_a_discarded_folder_is_gone(tmp_path: Path, manifest: Callable[..., Manifest]) -> None:
    output = ArtifactFolder(LocalStorage(tmp_path), "a", F, "g00")
    output.write("x", b"1")
    output.commit(manifest())
    output.discard()
    assert output.read_manifest() is None and not list(tmp_path.iterdir())


@pytest.mark.parametrize("act", [lambda output: output.fetch("x"), lambda output: output.describe(["x"])])
def test_a_missing_file_is_named(tmp_path: Path, act: Callable[[ArtifactFolder], object]) -> None:
    output = ArtifactFolder(LocalStorage(tmp_path), "a", "f", "g00")
    with pytest.raises(DamagedOutput, match=r"a/f/g00/x: stored file is gone; run again to recompute it"):
        act(output)


def finished(folder: Path, manifest: Callable[..., Manifest]) -> Artifact:
    """Return an artifact with the file x of four bytes."""
    output = ArtifactFolder(LocalStorage(folder), "a", F, "g00")
    output.write("x", b"1234")
    written = manifest(files=output.describe(["x"]))
    output.commit(written)
    return Artifact(output.storage, written.summary())


@pytest.mark.parametrize("damage", [b"4321", b"\0\0\0\0", b"123", b"12345"])
def test_a_fetched_file_is_compared_with_its_manifest(
    tmp_path: Path, manifest: Callable[..., Manifest], damage: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOBILECLIP2_CACHE", str(tmp_path / "cache"))
    artifact = finished(tmp_path, manifest)
    path = artifact.fetch("x")
    path.write_bytes(damage)
    with pytest.raises(DamagedOutput, match=r"g00/x: it no longer matches its manifest; run again to recompute it"):
        artifact.fetch("x")


def test_only_local_rank_0_verifies_a_fetched_file(
    tmp_path: Path, manifest: Callable[..., Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOBILECLIP2_CACHE", str(tmp_path / "cache"))
    artifact = finished(tmp_path, manifest)
    (tmp_path / artifact.key("x")).write_bytes(b"4321")
    monkeypatch.setenv("LOCAL_RANK", "1")
    artifact.fetch("x")
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(DamagedOutput):
        artifact.fetch("x")


def test_a_file_changed_before_the_commit_is_detected(tmp_path: Path, manifest: Callable[..., Manifest]) -> None:
    output = ArtifactFolder(LocalStorage(tmp_path), "a", F, "g00")
    (tmp_path / "source").write_bytes(b"1")
    output.put("x", tmp_path / "source")
    output.write("y", b"2")
    assert output.names() == {"x", "y"} and output.is_intact("x") and output.is_intact("y")
    (tmp_path / output.key("y")).write_bytes(b"3")
    assert not output.is_intact("y")
    with pytest.raises(DamagedOutput, match=r"g00/y: it changed after it was written; run again"):
        output.describe(["x", "y"])
    output.delete("y")
    output.commit(manifest(files=output.describe(["x"])))
    assert {path.name for path in (tmp_path / output.prefix).iterdir()} == {"x", "manifest.json"}


def test_a_file_without_a_hash_is_not_intact(tmp_path: Path) -> None:
    output = ArtifactFolder(LocalStorage(tmp_path), "a", F, "g00")
    output.storage.write(output.key("x"), b"1")
    assert not output.is_intact("x")
