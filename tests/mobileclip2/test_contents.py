"""Outside inputs are hashed once: by one pod of many, and anew only when they have changed."""

import pytest

from mobileclip2 import contents as contents_module
from mobileclip2.contents import Contents, GroupShards
from mobileclip2.pipeline import Pipeline
from mobileclip2.profile import load


@pytest.fixture
def hashed(monkeypatch):
    """Names of the files that were read to be hashed."""
    names = []
    file_sha256 = contents_module.file_sha256
    monkeypatch.setattr(contents_module, "file_sha256", lambda path: names.append(path.name) or file_sha256(path))
    return names


def digest(profile, monkeypatch, pod):
    """Of a group, as a pod finds it that has a cache of its own."""
    monkeypatch.setenv("MOBILECLIP2_CACHE", str(profile.parent / f"cache-{pod}"))
    return Contents(load(profile)).digest(GroupShards(), "g00")


def test_of_many_pods_over_one_volume_the_first_hashes(tiny, monkeypatch, hashed):
    first = digest(tiny, monkeypatch, 0)
    assert hashed == ["00000.tar", "00002.tar"] and not (tiny.parent / "store").exists()
    Pipeline(load(tiny)).materialise("raw_shards", "g00")
    assert {digest(tiny, monkeypatch, pod) for pod in (0, 1, 2)} == {first} and len(hashed) == 2
    shard = tiny.parent / "shards" / "00002.tar"
    shard.write_bytes(shard.read_bytes() + bytes(1024))
    second = digest(tiny, monkeypatch, 3)
    assert second != first and sorted(hashed[2:]) == ["00000.tar", "00002.tar"]
    Pipeline(load(tiny)).materialise("raw_shards", "g00")
    assert digest(tiny, monkeypatch, 4) == second and len(hashed) == 4
