"""Test the names of the sidecars of a shard."""

import pytest

from mobileclip2.data.tar import TarWriter
from mobileclip2.engine.shard import Shard
from mobileclip2.engine.shard_stage import side_name, skipped_name
from mobileclip2.stages.reinforced_dataset import tar_name
from mobileclip2.store import LocalStorage


@pytest.mark.parametrize("stem", ["x" * 248, "\u00e9" * 124, "\u6f22" * 83])
def test_a_long_shard_name_becomes_a_shorter_sidecar_name(tmp_path, stem):
    shard, other = Shard(f"made/{stem}.tar", "url"), Shard(f"made/{stem[:-1]}0.tar", "url")
    assert shard.id != other.id
    for name in (side_name(shard), skipped_name(shard), tar_name(shard)):
        LocalStorage(tmp_path).write(name, b"x")
    with TarWriter(tmp_path / tar_name(shard)) as tar:
        tar.write("a", {"txt": b"x"})
    assert Shard("made/00000.tar", "url").id.startswith("00000-")
