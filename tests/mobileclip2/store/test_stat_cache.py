"""A damaged or unwritable cache is ignored."""

import subprocess

import pytest

from mobileclip2.store.stat_cache import StatCache
from tests.faults import fill


def test_a_cache_that_cannot_be_opened_works_in_memory(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MOBILECLIP2_CACHE", str(tmp_path / "file" / "cache"))
    cache = StatCache()
    cache.put("place", "look", "value")
    assert cache.get("place", "look") == "value"
    assert "the cache of hashes cannot be used" in caplog.text


@pytest.mark.parametrize("damage", [b"no database" * 100, None])
def test_a_damaged_cache_is_usable_again(tmp_path, monkeypatch, damage):
    """A network file system or a power failure can damage the database."""
    monkeypatch.setenv("MOBILECLIP2_CACHE", str(tmp_path))
    before = StatCache()
    for number in range(500):
        before.put(f"place-{number}", "look", "value" * 20)
    before._database.execute("pragma wal_checkpoint(truncate)")
    file = tmp_path / "hashes.sqlite"
    data = file.read_bytes()
    file.write_bytes(damage or data[:4096] + bytes(len(data) - 4096))
    after = StatCache()
    assert after.get("place-1", "look") is None
    after.put("place-1", "look", "new")
    assert after.get("place-1", "look") == "new"


@pytest.mark.parametrize("column", ["url", "token", "value", "sha256"])
@pytest.mark.parametrize("forged", ["other", b"\xff", 7, None])
def test_an_altered_entry_is_ignored(tmp_path, monkeypatch, column, forged):
    monkeypatch.setenv("MOBILECLIP2_CACHE", str(tmp_path))
    StatCache().put("place", "look", "value")
    StatCache()._database.execute(f"update entries set {column} = ?", (forged,))
    for url in ("place", "other"):
        after = StatCache()
        assert after.get(url, "look") is None and after.get(url, "other") is None and not after.contains(url)


def test_a_full_disk_does_not_break_the_cache(tmp_path, monkeypatch):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        monkeypatch.setenv("MOBILECLIP2_CACHE", str(disk))
        cache = StatCache()
        cache.put("before", "look", "value")
        fill(disk / "ballast")
        for number in range(100):
            cache.put(f"place-{number}", "look", "v" * 1000)
        assert cache.get("place-99", "look") == "v" * 1000
        assert StatCache().get("before", "look") == "value"
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)
