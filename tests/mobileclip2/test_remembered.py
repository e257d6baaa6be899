"""What is remembered can be found out again: where it cannot be written, everything goes on."""

import subprocess

import pytest

from mobileclip2.remembered import Remembered
from tests.faults import fill


def test_a_cache_that_cannot_be_opened(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MOBILECLIP2_CACHE", str(tmp_path / "file" / "cache"))
    remembered = Remembered()
    remembered.keep("place", "look", "value")
    assert remembered.recall("place", "look") == "value"
    assert "remembered.sqlite: cannot be used (" in caplog.text


def test_a_full_disk(tmp_path, monkeypatch):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        monkeypatch.setenv("MOBILECLIP2_CACHE", str(disk))
        remembered = Remembered()
        remembered.keep("before", "look", "value")
        fill(disk / "ballast")
        for number in range(100):
            remembered.keep(f"place-{number}", "look", "v" * 1000)
        assert remembered.recall("place-99", "look") == "v" * 1000
        assert Remembered().recall("before", "look") == "value"
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)
