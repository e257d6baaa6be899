"""The cache belongs to one user and has a size limit. A sweep keeps files that a running process may use."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mobileclip2.errors import StoreError
from mobileclip2.store.user_cache import begin_use, cache_folder, sweep


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOBILECLIP2_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_only_the_user_can_read_the_cache(folder: Path) -> None:
    assert cache_folder() == folder
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)
    cache_folder()
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_symbolic_link_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(
        StoreError, match="cache: the cache cannot be used: it is a symbolic link; set MOBILECLIP2_CACHE"
    ):
        cache_folder()


def test_a_folder_of_another_user_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
    with pytest.raises(StoreError, match="it belongs to another user"):
        cache_folder()


def test_a_file_in_place_of_the_folder_is_refused(folder: Path) -> None:
    folder.touch()
    with pytest.raises(StoreError, match="the cache cannot be used: File exists"):
        cache_folder()


def test_the_default_folder_of_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MOBILECLIP2_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == tmp_path / ".cache" / "mobileclip2"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "mobileclip2"


def test_a_user_without_a_home_folder_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MOBILECLIP2_CACHE", "HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def nameless(_: int) -> None:
        raise KeyError("uid not found")

    monkeypatch.setattr(pwd, "getpwuid", nameless)
    with pytest.raises(StoreError, match="no home folder for the cache; set HOME, or set MOBILECLIP2_CACHE"):
        cache_folder()


def cached(folder: Path, name: str, age: float) -> Path:
    path = cache_folder() / "s3" / name / "0.tar"
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes(1 << 20))
    os.utime(path, (time.time() - age,) * 2)
    return path


@pytest.mark.parametrize("size", ["0", "-1", "many", "nan", "inf"])
def test_an_invalid_size_is_rejected(folder: Path, size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOBILECLIP2_CACHE_GIB", size)
    with pytest.raises(StoreError, match=r"MOBILECLIP2_CACHE_GIB: .* is not a positive number"):
        sweep()


def test_the_least_recently_used_files_are_deleted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, middle, new = (cached(folder, f"{age}", age) for age in (3000, 2000, 1000))
    assert sweep() == 0
    monkeypatch.setenv("MOBILECLIP2_CACHE_GIB", str(2 / 1024))
    assert sweep() == 1 << 20
    assert not old.parent.exists() and middle.exists() and new.exists()
    assert sweep(unused_seconds=1500) == 1 << 20
    assert not middle.exists() and new.exists()


def test_files_of_a_running_process_are_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = "from mobileclip2.store.user_cache import begin_use; begin_use(); print(flush=True); input()"
    monkeypatch.setenv("MOBILECLIP2_CACHE_GIB", str(1 / (1 << 20)))
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdin and other.stdout
        other.stdout.readline()
        before, since = cached(folder, "before", 1000), cached(folder, "since", -1)
        sweep()
        assert not before.exists() and since.exists()
        other.stdin.write(b"\n")
    assert sweep() == 1 << 20
    assert not since.exists() and not list((folder / "sessions").iterdir())


def test_a_process_keeps_its_own_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOBILECLIP2_CACHE_GIB", str(1 / (1 << 20)))
    begin_use()
    kept = cached(folder, "kept", -1)
    assert sweep() == 0 and kept.exists()
