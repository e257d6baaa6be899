from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from demo.tars import write_tar
from mobileclip2.config.filters import Filters
from mobileclip2.data.reinforced_format import decode
from mobileclip2.data.row_file import RowFile
from mobileclip2.data.tar import read_samples
from mobileclip2.data.validate_reinforced import validate_reinforced
from mobileclip2.engine.shard import Shard
from mobileclip2.errors import ShardError
from mobileclip2.stages.image_index import ImageIndex
from mobileclip2.training.published_shard import OpenPublishedShard, PublishedShard
from tests.mobileclip2.stages.published_shards import DIMS, members, picture, write_images, write_shards


def shard(folder: Path) -> PublishedShard:
    """Return a shard of 6 samples. Two other tars contain the images of all samples but the first."""
    write_shards(folder, shards=1, images=False)
    write_images(folder / "images", range(1, 6), per_shard=3)
    images = {path.name: path for path in (folder / "images").iterdir()}
    index = ImageIndex([Shard(name, str(path)) for name, path in sorted(images.items())], uid=False)
    path = folder / "00000000.tar"
    with path.open("rb") as file:
        teachers = {"a": DIMS[0], "b": DIMS[1]}
        table, skipped = validate_reinforced(read_samples(file, "s"), teachers, Filters(), "s", index.find)
    assert (table.num_rows, skipped.num_rows) == (5, 1)
    return PublishedShard(path, table, images)


def test_valid_samples_are_read_with_their_joined_images(tmp_path: Path) -> None:
    opened = OpenPublishedShard(shard(tmp_path), RowFile())
    for each in (opened, pickle.loads(pickle.dumps(opened))):  # noqa: S301 - loader processes get a copy
        assert [each.key(row) for row in range(len(each))] == [f"uid{number:04d}" for number in range(1, 6)]
        for row in range(len(each)):
            sample = decode(each.members(row), each.key(row), "s")
            assert sample.image == picture(row + 1)["jpg"] and sample.captions["syn_text"][0].endswith(f" {row + 1} 0")
        assert set(each.members(0, "jpg", "npz")) == {"jpg"}


def test_a_changed_member_is_refused(tmp_path: Path) -> None:
    made = shard(tmp_path)
    changed = {**members(1), "syn.json": members(2)["syn.json"]}
    numbers = [changed if number == 1 else members(number) for number in range(6)]
    parts = [(f"uid{n:04d}.{name}", data) for n, each in enumerate(numbers) for name, data in each.items()]
    write_tar(made.path, parts)
    opened = OpenPublishedShard(made, RowFile())
    with pytest.raises(ShardError, match=r"sample 'uid0001' or its image has changed since it was validated"):
        opened.members(0)
    assert opened.members(1)
