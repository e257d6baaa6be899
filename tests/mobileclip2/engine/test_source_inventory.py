"""Inputs outside the store are hashed by one of many pods, and again only after a change."""

import os
import shutil

import pytest
import yaml

from mobileclip2.config.profile import load
from mobileclip2.data.tar import TarWriter
from mobileclip2.engine import source_inventory
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.engine.shard_stage import side_name, skipped_name
from mobileclip2.engine.source_inventory import DIGESTS, GroupShards, Shard, list_files
from mobileclip2.errors import ShardError
from mobileclip2.stages.reinforced_dataset import tar_name
from mobileclip2.store import LocalStorage
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
    # a new mtime with equal bytes is hashed once and shared, although no part is computed
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


@pytest.mark.parametrize("target", [".", "..", "loop", "deep/er", "/"])
def test_a_loop_of_symbolic_links_is_named(tmp_path, target):
    (tmp_path / "shards" / "deep" / "er").mkdir(parents=True)
    place = tmp_path / "shards" / "deep" / "er" if target == "deep/er" else tmp_path / "shards"
    (place / "loop").symlink_to(tmp_path / "shards" if target in {"deep/er", "/"} else target)
    with pytest.raises(ShardError, match=r"loop.*(name folders without it|Too many levels of symbolic links)"):
        list_files(str(tmp_path / "shards"), "**/*.tar")


def test_links_to_other_folders_and_files_are_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "0.tar").touch()
    (tmp_path / "shards").mkdir()
    for name in ("a", "b"):
        (tmp_path / "shards" / name).symlink_to(tmp_path / "elsewhere")
    (tmp_path / "shards" / "1.tar").symlink_to(tmp_path / "elsewhere" / "0.tar")
    assert [file.relative for file in list_files(str(tmp_path / "shards"), "**/*.tar")] == [
        "1.tar",
        "a/0.tar",
        "b/0.tar",
    ]


def test_a_name_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.tar")).touch()
    with pytest.raises(ShardError, match=r"caf.*not UTF-8; rename it"):
        list_files(str(tmp_path), "**/*.tar")


@pytest.mark.parametrize("stem", ["x" * 248, "\u00e9" * 124, "\u6f22" * 83])
def test_a_long_name_of_a_shard_becomes_a_shorter_name_of_its_sidecars(tmp_path, stem):
    shard, other = Shard(f"made/{stem}.tar", "url"), Shard(f"made/{stem[:-1]}0.tar", "url")
    assert shard.id != other.id
    for name in (side_name(shard), skipped_name(shard), tar_name(shard)):
        LocalStorage(tmp_path).write(name, b"x")
    with TarWriter(tmp_path / tar_name(shard)) as tar:
        tar.write("a", {"txt": b"x"})
    assert Shard("made/00000.tar", "url").id.startswith("00000-")


def urls(tiny, url, pattern="**/*.tar"):
    """Return the shards of a source, and the source's folder."""
    values = yaml.safe_load(tiny.read_text())
    values["sources"][0] |= {"url": url, "pattern": pattern}
    tiny.write_text(yaml.safe_dump(values))
    return Pipeline(load(tiny)).inventory


def test_braces_over_the_files_of_a_folder_are_that_folder(tiny):
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


def test_several_patterns_are_one_or_the_other(tiny):
    found = urls(tiny, "shards", ["*0.tar", "*3.tar"]).shards
    assert [shard.relative for shard in found] == ["made/00000.tar", "made/00003.tar"]
    with pytest.raises(ShardError, match=r"no shard matches 'a\*\.tar', 'b\*\.tar'"):
        _ = urls(tiny, "shards", ["a*.tar", "b*.tar"]).shards
