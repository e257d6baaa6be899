"""Outside inputs are hashed once: by one pod of many, and anew only when they have changed."""

import pytest

from mobileclip2 import contents as contents_module
from mobileclip2.contents import DIGESTS, Contents, GroupShards
from mobileclip2.profile import load


@pytest.fixture
def hashed(monkeypatch):
    """Names of the files that were read to be hashed."""
    names = []
    file_sha256 = contents_module.file_sha256
    monkeypatch.setattr(contents_module, "file_sha256", lambda path: names.append(path.name) or file_sha256(path))
    return names


def digest(profile, tmp_path, monkeypatch, pod):
    """Of a group, as a pod finds it that has a cache of its own."""
    monkeypatch.setenv("MOBILECLIP2_CACHE", str(tmp_path / f"cache-{pod}"))
    return Contents(load(profile)).digest(GroupShards(), "g00")


def test_of_many_pods_over_one_volume_the_first_hashes(tiny, tmp_path, monkeypatch, hashed):
    first = digest(tiny, tmp_path, monkeypatch, 0)
    assert hashed == ["00000.tar", "00002.tar"]
    assert {digest(tiny, tmp_path, monkeypatch, pod) for pod in (0, 1, 2)} == {first} and len(hashed) == 2
    shard = tiny.parent / "shards" / "00002.tar"
    shard.write_bytes(shard.read_bytes()[:-1024])
    second = digest(tiny, tmp_path, monkeypatch, 3)
    assert second != first and sorted(hashed[2:]) == ["00000.tar", "00002.tar"]
    assert digest(tiny, tmp_path, monkeypatch, 4) == second and len(hashed) == 4


def test_a_store_that_cannot_be_written_is_no_hindrance(tiny, tmp_path, monkeypatch, hashed):
    expected = digest(tiny, tmp_path, monkeypatch, 0)
    store = tiny.parent / "store"
    for file in (store / DIGESTS).iterdir():
        file.unlink()
    (store / DIGESTS).rmdir()
    (store / DIGESTS).write_bytes(b"")  # a file where a folder is needed
    assert digest(tiny, tmp_path, monkeypatch, 1) == expected and len(hashed) == 4
