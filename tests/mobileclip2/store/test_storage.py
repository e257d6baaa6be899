import errno
import os
from pathlib import Path

import pytest

from mobileclip2.errors import DamagedOutput, StoreError
from mobileclip2.store import ArtifactFolder, File, LocalStorage, Manifest
from mobileclip2.store import storage as storage_module
from mobileclip2.store.manifest import identify

F = identify("a", "1", {}, {})


def manifest(**changes) -> Manifest:
    fields = {
        "asset": "a",
        "part": "whole",
        "group": "g00",
        "fingerprint": F,
        "code_version": "1",
        "declared": {},
        "inputs": {},
        "samples": 1,
        "skipped": 0,
        "skip_reasons": {},
        "facts": {},
        "files": [File(name="x", size=1, sha256="0")],
    }
    return Manifest(**{**fields, **changes})  # fmt: skip


def test_a_write_is_whole_or_absent(tmp_path, monkeypatch):
    store = LocalStorage(tmp_path)

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StoreError, match="disk is full"):
        store.write("a/b", b"12345678")
    assert not store.exists("a/b")
    assert list(store.list("")) == []
    assert not list(tmp_path.rglob("*.partial"))


def test_a_full_disk_for_real():
    if not os.access("/dev/full", os.W_OK):
        pytest.skip("needs /dev/full")
    with (
        pytest.raises(StoreError, match="disk is full"),
        storage_module.atomic_path(Path("/dev/shm/never")) as temporary,
    ):
        temporary.symlink_to("/dev/full")
        temporary.write_bytes(b"x")


def test_a_read_only_store(tmp_path, monkeypatch):
    def refuse(self: Path, data: bytes) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(StoreError, match="read-only; point 'store'"):
        LocalStorage(tmp_path).write("a", b"1")


def test_the_data_version_is_that_of_the_content():
    same = manifest(code_version="2", fingerprint="other", declared={"x": 1}, inputs={"y": "z"})
    assert same.data_version == manifest().data_version
    for change in ({"samples": 2}, {"facts": {"dim": 3}}, {"files": [File(name="x", size=1, sha256="1")]}):
        assert manifest(**change).data_version != manifest().data_version


def test_a_manifest_that_was_changed_is_refused(tmp_path):
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


def test_a_manifest_of_another_place_is_refused(tmp_path):
    store = LocalStorage(tmp_path)
    ArtifactFolder(store, "a", F, "g00").commit(manifest())
    store.write(f"a/{F}/g01/manifest.json", store.read(f"a/{F}/g00/manifest.json"))
    with pytest.raises(DamagedOutput, match=rf"g01/manifest\.json: .*it belongs to a/{F}/g00"):
        ArtifactFolder(store, "a", F, "g01").read_manifest()


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"{}", b"\xff"])
def test_a_damaged_manifest_is_named(tmp_path, damage):
    output = ArtifactFolder(LocalStorage(tmp_path), "a", "f", "g00")
    output.write("manifest.json", damage)
    with pytest.raises(DamagedOutput, match=r"manifest\.json"):
        output.read_manifest()


def test_gone_and_changed_files_are_named(tmp_path):
    output = ArtifactFolder(LocalStorage(tmp_path), "a", "f", "g00")
    output.write("x", b"1")
    output.write("y", b"2")
    closed = manifest(files=output.describe(["x", "y"]))
    assert output.verify(closed) == []
    output.write("x", b"3")
    (tmp_path / "a/f/g00/y").unlink()
    assert output.verify(closed) == ["a/f/g00/x differs from its manifest", "a/f/g00/y is gone"]


def test_what_is_appended_comes_last(tmp_path, monkeypatch):
    store = LocalStorage(tmp_path)
    for data in (b"1\n", b"2\n"):
        store.append(".scratch/times/x", data)
    assert store.read(".scratch/times/x") == b"1\n2\n"
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="a file lies where a folder is needed"):
        store.append("file/x", b"1")


def test_a_folder_is_deleted_with_those_that_it_leaves_empty(tmp_path):
    store = LocalStorage(tmp_path)
    for key in ("a/b/c/x", "a/d/y"):
        store.write(key, b"1")
    for _ in range(2):  # another process may have deleted it first
        store.delete_folder("a/b/c")
        assert [key for key, _ in store.list("")] == ["a/d/y"] and not (tmp_path / "a/b").exists()
    store.delete_folder("a/d")
    assert list(tmp_path.iterdir()) == []
