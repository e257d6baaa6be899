"""One of many pods hashes an input outside the store. The input is hashed again only after a change."""

import shutil

import pytest
import yaml

from mobileclip2.config.model import Weights
from mobileclip2.config.profile import load
from mobileclip2.engine import source_inventory
from mobileclip2.engine.external import GroupShards
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.engine.source_inventory import DIGESTS
from mobileclip2.errors import ShardError, WeightsError
from pipelines.cli import main


@pytest.fixture
def hashed(monkeypatch):
    """Return the names of the files that were hashed."""
    names = []
    file_sha256 = source_inventory.file_sha256
    monkeypatch.setattr(source_inventory, "file_sha256", lambda path: names.append(path.name) or file_sha256(path))
    return names


def pod(profile, monkeypatch, number):
    """Return a pipeline with the cache of one pod."""
    monkeypatch.setenv("MOBILECLIP2_CACHE", str(profile.parent / f"cache-{number}"))
    return Pipeline(load(profile))


def digest(pipeline):
    return pipeline.inventory.digest(GroupShards(), "g00")


def test_pods_share_the_hashes_of_one_volume(tiny, monkeypatch, hashed):
    pipeline = pod(tiny, monkeypatch, 0)
    first = digest(pipeline)
    assert hashed == ["00000.tar", "00002.tar"] and not (tiny.parent / "store").exists()
    pipeline.materialize("raw_shards", "g00")
    assert {digest(pod(tiny, monkeypatch, number)) for number in (0, 1, 2)} == {first} and len(hashed) == 2
    # a file with a new mtime and equal bytes is hashed once, and its hash is shared although no part is computed
    (tiny.parent / "shards" / "00002.tar").touch()
    assert pod(tiny, monkeypatch, 3).materialize("raw_shards", "g00").computed == [] and len(hashed) == 4
    assert digest(pod(tiny, monkeypatch, 4)) == first and len(hashed) == 4


@pytest.mark.parametrize("damage", [b"", b"0123", b"\xff" * 16])
def test_a_damaged_shared_hash_is_recomputed(tiny, monkeypatch, hashed, damage):
    pipeline = pod(tiny, monkeypatch, 0)
    pipeline.materialize("raw_shards", "g00")
    (shared,) = (tiny.parent / "store" / DIGESTS).iterdir()
    shared.write_bytes(damage)
    assert digest(pod(tiny, monkeypatch, 1)) == digest(pipeline) and len(hashed) == 4


def test_a_profile_is_checked_without_its_store_and_without_reading_all_shards(tiny, hashed):
    values = yaml.safe_load(tiny.read_text())
    tiny.write_text(yaml.safe_dump({**values, "store": "s3://no-such-bucket/and/no/network"}))
    assert main(["check", "--profile", str(tiny)]) == 0 and not hashed


def test_a_failure_to_share_hashes_is_only_a_warning(tiny, monkeypatch, hashed, caplog):
    (tiny.parent / "store").mkdir()
    (tiny.parent / "store" / DIGESTS).touch()  # a file where a folder is needed
    pod(tiny, monkeypatch, 0).materialize("raw_shards", "g00")
    assert "hashes of source files are not shared" in caplog.text
    assert digest(pod(tiny, monkeypatch, 1)) and len(hashed) == 4


def urls(tiny, url, pattern="**/*.tar"):
    """Return the source inventory of the tiny profile with another URL and pattern."""
    values = yaml.safe_load(tiny.read_text())
    values["sources"][0] |= {"url": url, "pattern": pattern}
    tiny.write_text(yaml.safe_dump(values))
    return Pipeline(load(tiny)).inventory


def test_braces_that_list_all_files_equal_the_folder(tiny):
    whole = urls(tiny, "shards")
    shards = whole.shards
    digests = [whole.digest(GroupShards(), group) for group in ("g00", "g01")]
    braces = urls(tiny, "shards/{00000..00003}.tar")
    assert braces.shards == shards
    assert [braces.digest(GroupShards(), group) for group in ("g00", "g01")] == digests
    assert urls(tiny, ["shards/{00000,00002}.tar", "shards/0000{1..3..2}.tar"]).shards == shards
    assert urls(tiny, "{shards,./shards}").shards == shards


def test_files_of_the_same_name_in_two_folders_are_two_shards(tiny):
    for folder in ("a", "b"):
        shutil.copytree(tiny.parent / "shards", tiny.parent / "data" / folder)
    shards = urls(tiny, "data/{a,b}").shards
    assert [shard.relative for shard in shards] == [f"made/{f}/0000{n}.tar" for f in "ab" for n in range(4)]
    assert len({shard.id for shard in shards}) == 8
    assert urls(tiny, ["data/b", "data/a"]).shards == shards
    assert urls(tiny, ["data", "data/a"]).shards == shards  # a file counts once


def test_every_location_of_a_list_must_have_a_shard(tiny):
    with pytest.raises(ShardError, match=r"00004\.tar \(and 5 more of 10 locations\); it does not exist"):
        _ = urls(tiny, "shards/{00000..00009}.tar").shards


def test_a_shard_may_match_any_of_several_patterns(tiny):
    found = urls(tiny, "shards", ["*0.tar", "*3.tar"]).shards
    assert [shard.relative for shard in found] == ["made/00000.tar", "made/00003.tar"]
    with pytest.raises(ShardError, match=r"no shard matches 'a\*\.tar', 'b\*\.tar'"):
        _ = urls(tiny, "shards", ["a*.tar", "b*.tar"]).shards


@pytest.mark.parametrize("package", ["nope", "nope.sub", "..x", "__main__"])
def test_weights_of_an_uninstalled_package_are_reported(tiny, package):
    weights = Weights(package=package, file="a.pth", sha256="0" * 64)
    with pytest.raises(WeightsError, match=f"weights: the package '{package}' is not installed"):
        Pipeline(load(tiny)).inventory.weights_path(weights)


def test_a_missing_weights_file_is_reported(tiny):
    with pytest.raises(WeightsError, match=r"weights: .*/nope.safetensors does not exist; check the profile"):
        Pipeline(load(tiny)).inventory.weights_path(Weights(path="weights/nope.safetensors"))
