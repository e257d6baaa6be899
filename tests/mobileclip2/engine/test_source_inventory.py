"""Outside inputs are hashed once: by one pod of many, and anew only when they have changed."""

import pytest
import yaml

from mobileclip2.config.profile import load
from mobileclip2.engine import source_inventory as contents_module
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.engine.source_inventory import DIGESTS, GroupShards
from pipelines.cli import main


@pytest.fixture
def hashed(monkeypatch):
    """Names of the files that were read to be hashed."""
    names = []
    file_sha256 = contents_module.file_sha256
    monkeypatch.setattr(contents_module, "file_sha256", lambda path: names.append(path.name) or file_sha256(path))
    return names


def pod(profile, monkeypatch, number):
    """A pipeline as a pod has it, with a cache of its own."""
    monkeypatch.setenv("MOBILECLIP2_CACHE", str(profile.parent / f"cache-{number}"))
    return Pipeline(load(profile))


def digest(pipeline):
    return pipeline.contents.digest(GroupShards(), "g00")


def test_of_many_pods_over_one_volume_the_first_hashes(tiny, monkeypatch, hashed):
    pipeline = pod(tiny, monkeypatch, 0)
    first = digest(pipeline)
    assert hashed == ["00000.tar", "00002.tar"] and not (tiny.parent / "store").exists()
    pipeline.materialize("raw_shards", "g00")
    assert {digest(pod(tiny, monkeypatch, number)) for number in (0, 1, 2)} == {first} and len(hashed) == 2
    # other times and the same bytes: hashed once more, and then known to all although there is nothing to compute
    (tiny.parent / "shards" / "00002.tar").touch()
    assert pod(tiny, monkeypatch, 3).materialize("raw_shards", "g00").computed == [] and len(hashed) == 4
    assert digest(pod(tiny, monkeypatch, 4)) == first and len(hashed) == 4


@pytest.mark.parametrize("damage", [b"", b"0123", b"\xff" * 16])
def test_a_damaged_hash_in_the_store_is_found_out_again(tiny, monkeypatch, hashed, damage):
    pipeline = pod(tiny, monkeypatch, 0)
    pipeline.materialize("raw_shards", "g00")
    (shared,) = (tiny.parent / "store" / DIGESTS).iterdir()
    shared.write_bytes(damage)
    assert digest(pod(tiny, monkeypatch, 1)) == digest(pipeline) and len(hashed) == 4


def test_a_profile_is_checked_without_its_store(tiny, hashed):
    values = yaml.safe_load(tiny.read_text())
    tiny.write_text(yaml.safe_dump({**values, "store": "s3://no-such-bucket/and/no/network"}))
    assert main(["check", "--profile", str(tiny)]) == 0 and hashed


def test_hashes_that_cannot_be_shared_are_no_hindrance(tiny, monkeypatch, hashed, caplog):
    (tiny.parent / "store").mkdir()
    (tiny.parent / "store" / DIGESTS).touch()  # a file where a folder is needed
    pod(tiny, monkeypatch, 0).materialize("raw_shards", "g00")
    assert "hashes of source files are not shared" in caplog.text
    assert digest(pod(tiny, monkeypatch, 1)) and len(hashed) == 4
