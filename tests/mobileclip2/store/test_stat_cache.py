"""What is remembered can be found out again: where it cannot be written, everything goes on."""

import subprocess

import pytest

from mobileclip2.store.stat_cache import StatCache
from tests.faults import fill


def test_a_cache_that_cannot_be_opened(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MOBILECLIP2_CACHE", str(tmp_path / "file" / "cache"))
    remembered = StatCache()
    remembered.keep("place", "look", "value")
    assert remembered.recall("place", "look") == "value"
    assert "remembered.sqlite: the cache cannot be used (" in caplog.text


@pytest.mark.parametrize("damage", [b"no database" * 100, None])
def test_a_damaged_cache(tmp_path, monkeypatch, damage):
    """A network file system or a power cut can do that; whatever is in there can be found out again."""
    monkeypatch.setenv("MOBILECLIP2_CACHE", str(tmp_path))
    before = StatCache()
    for number in range(500):
        before.keep(f"place-{number}", "look", "value" * 20)
    before._database.execute("pragma wal_checkpoint(truncate)")
    file = tmp_path / "remembered.sqlite"
    data = file.read_bytes()
    file.write_bytes(damage or data[:4096] + bytes(len(data) - 4096))
    after = StatCache()
    assert after.recall("place-1", "look") is None
    after.keep("place-1", "look", "new")
    assert after.recall("place-1", "look") == "new"


def test_a_full_disk(tmp_path, monkeypatch):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        monkeypatch.setenv("MOBILECLIP2_CACHE", str(disk))
        remembered = StatCache()
        remembered.keep("before", "look", "value")
        fill(disk / "ballast")
        for number in range(100):
            remembered.keep(f"place-{number}", "look", "v" * 1000)
        assert remembered.recall("place-99", "look") == "v" * 1000
        assert StatCache().recall("before", "look") == "value"
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)
