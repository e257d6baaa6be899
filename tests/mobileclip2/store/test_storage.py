import errno
import os
from pathlib import Path

import pyarrow as pa
import pytest

from mobileclip2.data import sidecar
from mobileclip2.data.tar import TarWriter
from mobileclip2.errors import StoreError
from mobileclip2.store import LocalStorage
from mobileclip2.store import storage as storage_module
from mobileclip2.store.storage import has_end


def test_a_write_is_atomic(tmp_path, monkeypatch):
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


def test_a_real_full_disk_is_reported():
    if not os.access("/dev/full", os.W_OK):
        pytest.skip("needs /dev/full")
    with (
        pytest.raises(StoreError, match="disk is full"),
        storage_module.atomic_path(Path("/dev/shm/never")) as temporary,
    ):
        temporary.unlink()
        temporary.symlink_to("/dev/full")
        temporary.write_bytes(b"x")


def test_a_read_only_store_is_reported(tmp_path, monkeypatch):
    def refuse(self: Path, data: bytes) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(StoreError, match="read-only; point 'store'"):
        LocalStorage(tmp_path).write("a", b"1")


@pytest.mark.parametrize("path", ["x" * 300, f"{'x' * 300}/x", "file/x", "folder", "loop/x"])
def test_a_path_that_cannot_be_written_is_named(tmp_path, path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(StoreError, match=f"{path}: .*(give another path|shorten it)"):
        LocalStorage(tmp_path).write(path, b"1")


@pytest.mark.parametrize("problem", [0, errno.EPERM, errno.ENOSYS])
def test_create_does_not_replace_a_file(tmp_path, monkeypatch, problem):
    """Some file systems have no hard links: FAT returns EPERM, and some FUSE mounts return ENOSYS."""

    def without_links(*_: object) -> None:
        raise OSError(problem, os.strerror(problem))

    if problem:
        monkeypatch.setattr(Path, "hardlink_to", without_links)
    store = LocalStorage(tmp_path)
    assert store.create("a/b", b"1")
    assert not store.create("a/b", b"2")
    assert store.read("a/b") == b"1"
    token = store.version_token("a/b")
    assert token
    assert not store.replace("a/b", b"3", "other")
    assert store.replace("a/b", b"34", token)
    assert store.read("a/b") == b"34"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


def test_append_writes_at_the_end(tmp_path, monkeypatch):
    store = LocalStorage(tmp_path)
    for data in (b"1\n", b"2\n"):
        store.append(".scratch/times/x", data)
    assert store.read(".scratch/times/x") == b"1\n2\n"
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="a file lies where a folder is needed"):
        store.append("file/x", b"1")


def test_deleting_a_folder_deletes_empty_parents(tmp_path):
    store = LocalStorage(tmp_path)
    for key in ("a/b/c/x", "a/d/y"):
        store.write(key, b"1")
    for _ in range(2):  # another process may have deleted it first
        store.delete_folder("a/b/c")
        assert [key for key, _ in store.list("")] == ["a/d/y"] and not (tmp_path / "a/b").exists()
    store.delete_folder("a/d")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(params=["table.parquet", "shard.tar"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / request.param
    if path.suffix == ".parquet":
        path.write_bytes(sidecar.to_bytes(pa.table({"key": ["a", "b"]})))
    else:
        with TarWriter(path) as tar:
            tar.write("a", {"jpg": bytes(range(1, 256)) * 100})
    return path


def test_a_file_without_its_end_is_detected(path: Path) -> None:
    assert has_end(path)
    for size in (path.stat().st_size // 2, 3, 0):
        os.truncate(path, size)
        assert not has_end(path)


def test_files_without_an_end_marker_count_as_complete(tmp_path: Path) -> None:
    for name in ("metrics.jsonl", "weights.safetensors"):
        (tmp_path / name).write_bytes(b"")
        assert has_end(tmp_path / name)
