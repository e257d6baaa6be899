from __future__ import annotations

from pathlib import Path

import pytest

from demo.tars import write_tar
from mobileclip2.data.validate import MAX_TEXT_BYTES
from mobileclip2.engine.shard import Shard
from mobileclip2.stages import image_index
from mobileclip2.stages.image_index import ImageIndex


def shards(folder: Path, *contents: list[tuple[str, bytes]]) -> list[Shard]:
    for number, members in enumerate(contents):
        write_tar(folder / f"{number}.tar", members)
    return [Shard(f"{number}.tar", str(folder / f"{number}.tar")) for number in range(len(contents))]


def test_the_first_shard_with_a_key_is_used(tmp_path: Path) -> None:
    listed = shards(tmp_path, [("a.jpg", b"0"), ("b.jpg", b"1")], [("b.jpg", b"2"), ("c.png", b"3"), ("c.txt", b"t")])
    index = ImageIndex(listed, uid=False)
    assert index.find("b") == ("0.tar", "b", {"jpg": b"1"})
    assert index.find("c") == ("1.tar", "c", {"png": b"3", "txt": b"t"})
    assert index.find("d") is None


def test_samples_are_found_by_their_uid(tmp_path: Path) -> None:
    members = [("1.jpg", b"0"), ("1.json", b'{"uid": "x"}'), ("2.jpg", b"1"), ("3.json", b"no"), ("4.json", b"[]")]
    index = ImageIndex(shards(tmp_path, members), uid=True)
    found = index.find("x")
    assert found is not None and found.key == "1" and index.find("1") is None


def test_keys_with_the_same_hash_are_distinguished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_index, "_hash", lambda key: 7)
    index = ImageIndex(shards(tmp_path, [("a.jpg", b"0")], [("b.jpg", b"1")]), uid=False)
    assert [(found := index.find(key)) and found.shard for key in "abc"] == ["0.tar", "1.tar", None]


@pytest.mark.parametrize("data", [b'{"uid": "x", "more": "%s"}' % (b"a" * MAX_TEXT_BYTES), b"[" * 100_000])
def test_an_oversized_json_has_no_uid(tmp_path: Path, data: bytes) -> None:
    members = [("1.jpg", b"0"), ("1.json", data), ("2.jpg", b"1"), ("2.json", b'{"uid": "y"}')]
    index = ImageIndex(shards(tmp_path, members), uid=True)
    assert index.find("x") is None and index.find("y") is not None
