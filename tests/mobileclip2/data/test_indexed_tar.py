"""Random access and streaming give the same members for every tar format."""

import io
import os
import pickle
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobileclip2.data.indexed_tar import IndexedTar
from mobileclip2.data.row_file import RowFile
from mobileclip2.data.tar import TarWriter, read_samples
from mobileclip2.errors import ShardError, StoreError
from tests.processes import FORKSERVER

name_parts = st.text(st.sampled_from("abé漢_-. /0"), min_size=1, max_size=12)
members = st.lists(st.tuples(name_parts, st.binary(max_size=1500)), max_size=12)
flavours = st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])


def tar_of(path, files, flavour=tarfile.PAX_FORMAT):
    with tarfile.open(path, "w", format=flavour) as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@given(members, flavours)
def test_the_index_finds_what_a_stream_finds(tmp_path_factory, files, flavour):
    path = tar_of(tmp_path_factory.mktemp("tar") / "s.tar", files, flavour)
    with path.open("rb") as file:
        streamed = {sample.key: sample.members for sample in read_samples(file, "s") if not sample.fault}
    indexed = IndexedTar(path)
    found = {indexed.key(number): indexed.members(number) for number in range(len(indexed))}
    assert found == streamed and list(found) == list(streamed)


def test_long_names_links_and_folders(tmp_path):
    long = "deep/" * 40 + "folder.v1/key"
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind in [
            ("deep", tarfile.DIRTYPE),
            ("a.jpg", tarfile.SYMTYPE),
            (f"{long}.syn.json", tarfile.REGTYPE),
        ]:
            info = tarfile.TarInfo(name)
            info.type, info.size = kind, 2 if kind == tarfile.REGTYPE else 0
            tar.addfile(info, io.BytesIO(b"{}"))
    indexed = IndexedTar(path)
    assert indexed.keys() == [long] and indexed.members(0, "syn.json", "txt") == {"syn.json": b"{}"}


def test_of_several_runs_of_a_key_the_first_counts(tmp_path):
    files = [("a.txt", b"1"), ("b.txt", b"2"), ("a.txt", b"3"), ("a.jpg", b"4"), ("c.txt", b"5"), ("c.txt", b"6")]
    indexed = IndexedTar(tar_of(tmp_path / "s.tar", files))
    assert [indexed.members(n) for n in range(len(indexed))] == [{"txt": b"1"}, {"txt": b"2"}, {"txt": b"5"}]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_damaged_or_missing_tar_is_named(tmp_path, share):
    path = tmp_path / "s.tar"
    with pytest.raises(ShardError, match=str(path)):
        IndexedTar(path)
    with TarWriter(path) as writer:
        for number in range(3):
            writer.write(f"{number}", {"jpg": bytes(5000)})
    whole = path.read_bytes()[: 3 * (512 + 5120)]
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ShardError, match=str(path)):
        IndexedTar(path)
    path.write_bytes(whole[:5632] + b"\1" * 512 + whole[6144:])
    with pytest.raises(ShardError, match=str(path)):
        IndexedTar(path)


def test_a_tar_that_shrinks_after_it_was_indexed_is_noticed(tmp_path):
    indexed = IndexedTar(tar_of(tmp_path / "s.tar", [("a.txt", bytes(3000))]))
    os.truncate(indexed.path, 1000)
    with pytest.raises(ShardError, match=r"ends within 'a\.txt'"):
        indexed.members(0)


def test_a_rewritten_tar_is_not_read_through_an_old_file(tmp_path):
    path = tar_of(tmp_path / "s.tar", [("a.txt", b"old")])
    assert IndexedTar(path).members(0) == {"txt": b"old"}
    path.unlink()
    tar_of(path, [("bb.txt", b"new"), ("a.txt", b"newer")])
    assert IndexedTar(path).members(1) == {"txt": b"newer"}


def test_samples_can_be_numbered_by_keys_of_another_file(tmp_path):
    path = tar_of(tmp_path / "s.tar", [(f"{key}.txt", key.encode()) for key in ("a", "é", "long key")])
    file = RowFile()
    indexed = IndexedTar(path, file, ["long key", "a"])
    assert indexed.keys() == ["long key", "a"] and indexed.members(0) == {"txt": b"long key"} and len(indexed) == 2
    assert IndexedTar(path, file).key(1) == "é" and indexed.key(1) == "a"
    with pytest.raises(IndexError):
        indexed.members(2)
    with pytest.raises(ShardError, match=r"s\.tar: sample 'b' is gone; run raw_shards again"):
        IndexedTar(path, file, ["a", "b"])


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    path = tar_of(tmp_path / "s.tar", [("a.txt", b"1")])
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: Path("/dev/full").open("wb", buffering=0))  # noqa: SIM115
    with pytest.raises(
        StoreError, match=r"temporary files: cannot be written \(No space left on device\); point TMPDIR"
    ):
        IndexedTar(path)


def _read(indexed, number):
    return indexed.members(number)


def test_processes_can_share_it(tmp_path):
    files = [(f"{number}.txt", str(number).encode()) for number in range(40)]
    indexed = IndexedTar(tar_of(tmp_path / "s.tar", files))
    assert indexed.members(7) == {"txt": b"7"}
    assert pickle.loads(pickle.dumps(indexed)).members(7) == {"txt": b"7"}  # noqa: S301
    with FORKSERVER.Pool(2) as pool:
        found = pool.starmap(_read, [(indexed, number) for number in range(40)])
    assert [members["txt"] for members in found] == [data for _, data in files]
