"""Random access and streaming give the same members for every tar format."""

import io
import os
import pickle
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
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
def test_the_index_finds_the_same_samples_as_a_stream(tmp_path_factory, files, flavour):
    path = tar_of(tmp_path_factory.mktemp("tar") / "s.tar", files, flavour)
    with path.open("rb") as file:
        streamed = {sample.key: sample.members for sample in read_samples(file, "s") if not sample.fault}
    indexed = IndexedTar(path)
    found = {indexed.key(number): indexed.members(number) for number in range(len(indexed))}
    assert found == streamed and list(found) == list(streamed)


def padded(data: bytes) -> bytes:
    return data.ljust(-(-len(data) // 512) * 512, b"\0")


def header(name: str, size: int, kind: bytes = b"0", flavour: int = tarfile.USTAR_FORMAT) -> bytearray:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return bytearray(info.tobuf(flavour, "utf-8", "surrogateescape"))


def signed(block: bytearray) -> bytes:
    """Return a header with a new checksum."""
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block)


def extended(fields: dict[str, bytes], kind: bytes = tarfile.XHDTYPE) -> bytes:
    records = b""
    for key, value in fields.items():
        record = b" " + key.encode() + b"=" + value + b"\n"
        length = next(n for n in range(len(record), len(record) + 9) if len(str(n)) + len(record) == n)
        records += str(length).encode() + record
    return bytes(header("pax", len(records), kind)) + padded(records)


def plain(name, data):
    return bytes(header(name, len(data), flavour=tarfile.PAX_FORMAT)[-512:]) + padded(data)


def old_style(name, data):
    block = header(name, len(data), b"\0")
    block[257:] = bytes(255)
    return signed(block) + padded(data)


def base_256(name, data):
    block = header(name, 0)
    block[124:136] = b"\x80" + len(data).to_bytes(11, "big")
    return signed(block) + padded(data)


def pax_size(name, data, declared=0):
    return extended({"size": str(len(data)).encode()}) + bytes(header(name, declared)) + padded(data)


def pax_path(name, data):
    return extended({"path": name.encode()}) + bytes(header("short.txt", len(data))) + padded(data)


def binary_path(name, data):
    raw = extended({"hdrcharset": b"BINARY", "path": name.encode("latin-1", "replace") + b"\xe9.jpg"})
    return raw + bytes(header("short.txt", len(data))) + padded(data)


def long_name(name, data):
    return (
        bytes(header("././@LongLink", len(name.encode()) + 1, b"L")) + padded(name.encode() + b"\0") + plain("x", data)
    )


def global_field(field):
    def ingredient(name, data):
        value = {"comment": b"c", "path": name.encode(), "size": b"3"}[field]
        return extended({field: value}, tarfile.XGLTYPE) + plain(name, data)

    return ingredient


def of_kind(kind, *, with_data=False):
    def ingredient(name, data):
        return bytes(header(name, len(data) if with_data else 0, kind)) + (padded(data) if with_data else b"")

    return ingredient


def gnu_sparse(name, data):
    block = header(name, len(data), b"S", tarfile.GNU_FORMAT)
    block[257:265] = b"ustar  \0"
    block[345:] = bytes(167)
    block[386:410] = f"{1024:011o}\0{len(data):011o}\0".encode()
    block[483:495] = f"{1024 + len(data):011o}\0".encode()
    return signed(block) + padded(data)


def pax_sparse(name, data):
    size = str(1024 + len(data)).encode()
    fields = {"GNU.sparse.size": size, "GNU.sparse.numblocks": b"1", "GNU.sparse.map": b"1024,%d" % len(data)}
    return extended(fields) + plain(name, data)


def pax_sparse_0_0(name, data):
    fields = {"GNU.sparse.size": str(1024 + len(data)).encode(), "GNU.sparse.numblocks": b"1"}
    return extended({**fields, "GNU.sparse.offset": b"1024", "GNU.sparse.numbytes": b"%d" % len(data)}) + plain(
        name, data
    )


def pax_sparse_1_0(name, data):
    fields = {"GNU.sparse.major": b"1", "GNU.sparse.minor": b"0", "GNU.sparse.name": name.encode()}
    stored = padded(b"1\n1024\n%d\n" % len(data)) + data
    return extended({**fields, "GNU.sparse.realsize": b"%d" % (1024 + len(data))}) + plain("x", stored)


def bad_checksum(name, data):
    block = header(name, len(data))
    block[150] ^= 1
    return bytes(block) + padded(data)


INGREDIENTS = [
    plain,
    plain,
    plain,
    old_style,
    base_256,
    pax_size,
    lambda name, data: pax_size(name, data, declared=len(data) + 700),
    pax_path,
    binary_path,
    long_name,
    global_field("comment"),
    global_field("path"),
    global_field("size"),
    of_kind(b"1"),
    of_kind(b"1", with_data=True),
    of_kind(b"2"),
    of_kind(b"5"),
    of_kind(b"7", with_data=True),
    of_kind(b"Z", with_data=True),
    gnu_sparse,
    pax_sparse,
    pax_sparse_0_0,
    pax_sparse_1_0,
    bad_checksum,
    lambda *_: bytes(512),
    lambda *_: bytes(1024) + plain("second.jpg", b"x"),
    lambda *_: b"\1" * 512,
]
few_keys = st.sampled_from(["a", "b", "é", "n" * 60 + "/" + "n" * 60])
few_names = st.builds("{}.{}".format, few_keys, st.sampled_from(["jpg", "JPG", "txt", "t\1", "a.b"]))
pieces = st.builds(
    lambda ingredient, name, data: ingredient(name, data),
    st.sampled_from(INGREDIENTS),
    few_names,
    st.binary(max_size=1500),
)
changes = st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), max_size=3)


def streamed_samples(path):
    with path.open("rb") as file:
        return {sample.key: sample.members for sample in read_samples(file, "s") if not sample.fault}


def indexed_samples(path):
    indexed = IndexedTar(path)
    return {indexed.key(number): indexed.members(number) for number in range(len(indexed))}


def or_damage(read, path):
    try:
        return read(path)
    except ShardError:
        return "damaged"


@settings(max_examples=600)
@given(st.lists(pieces, max_size=7), changes, st.none() | st.integers(0, 8000))
@example([gnu_sparse("a.jpg", b"picture")], [], None)
@example([pax_sparse_1_0("a.jpg", b"picture")], [], None)
@example([global_field("path")("b.jpg", b"x"), plain("a.jpg", b"x")], [], None)
@example([global_field("size")("b.jpg", b"x"), plain("a.jpg", b"xyz")], [], None)
@example([plain("a.jpg", b"x"), bytes(1024), plain("b.jpg", b"x")], [], None)
@example([plain("a.jpg", b"x"), plain("a.t\1", b"x")], [], None)
@example([plain("a.t\1", b"x"), plain("a.jpg", b"x")], [], None)
def test_index_and_stream_agree_on_damaged_and_unusual_tars(tmp_path_factory, parts, flips, cut):
    """For damaged and unusual tars, both readers give the same bytes, or both raise an error."""
    data = bytearray(b"".join(parts) + bytes(1024))
    for position, value in flips:
        data[position % len(data)] = value
    path = tmp_path_factory.mktemp("tar") / "s.tar"
    path.write_bytes(data[:cut])
    assert or_damage(indexed_samples, path) == or_damage(streamed_samples, path)


@pytest.mark.parametrize("sparse", [gnu_sparse, pax_sparse, pax_sparse_0_0, pax_sparse_1_0])
def test_a_sparse_member_makes_its_sample_bad(tmp_path, sparse):
    path = tmp_path / "s.tar"
    parts = [plain("a.txt", b"1"), sparse("a.jpg", b"picture"), plain("b.jpg", b"2"), sparse("README", b"x")]
    path.write_bytes(b"".join(parts) + bytes(1024))
    with path.open("rb") as file:
        a, b = read_samples(file, "s")
    assert a.fault.reason == "sparse-member" and "'a.jpg' is stored as a sparse file" in a.fault.detail
    assert not a.members and not b.fault and b.members == {"jpg": b"2"}
    assert indexed_samples(path) == {"b": {"jpg": b"2"}}


@pytest.mark.parametrize("field", ["path", "size"])
def test_a_global_header_that_changes_members_is_damage(tmp_path, field):
    path = tmp_path / "s.tar"
    path.write_bytes(
        plain("a.jpg", b"xyz") + global_field(field)("b.jpg", b"xyz") + plain("c.jpg", b"xyz") + bytes(1024)
    )
    for read in (streamed_samples, indexed_samples):
        with pytest.raises(ShardError, match=f"a global header sets '{field}' of all members"):
            read(path)
    path.write_bytes(global_field("comment")("b.jpg", b"xyz") + bytes(1024))
    assert streamed_samples(path) == indexed_samples(path) == {"b": {"jpg": b"xyz"}}


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


def test_only_the_first_run_of_a_repeated_key_counts(tmp_path):
    files = [("a.txt", b"1"), ("b.txt", b"2"), ("a.txt", b"3"), ("a.jpg", b"4"), ("c.txt", b"5"), ("c.txt", b"6")]
    indexed = IndexedTar(tar_of(tmp_path / "s.tar", files))
    assert [indexed.members(n) for n in range(len(indexed))] == [{"txt": b"1"}, {"txt": b"2"}, {"txt": b"5"}]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_damaged_or_missing_tar_is_reported(tmp_path, share):
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


def test_a_tar_that_shrinks_after_indexing_is_detected(tmp_path):
    indexed = IndexedTar(tar_of(tmp_path / "s.tar", [("a.txt", bytes(3000))]))
    indexed.members(0)
    os.truncate(indexed.path, 1000)
    with pytest.raises(ShardError, match=r"ends within 'a\.txt'"):
        indexed.members(0)


def test_a_tar_that_is_replaced_before_its_first_read_is_detected(tmp_path):
    indexed = IndexedTar(tar_of(tmp_path / "s.tar", [("a.txt", b"old")]))
    tar_of(tmp_path / "s.tar", [("a.txt", b"new")])
    with pytest.raises(ShardError, match=r"s\.tar: .* replaced or written to after it was indexed"):
        indexed.members(0)


def test_a_rewritten_tar_is_not_read_through_an_old_file_handle(tmp_path):
    path = tar_of(tmp_path / "s.tar", [("a.txt", b"old")])
    assert IndexedTar(path).members(0) == {"txt": b"old"}
    path.unlink()
    tar_of(path, [("bb.txt", b"new"), ("a.txt", b"newer")])
    assert IndexedTar(path).members(1) == {"txt": b"newer"}


def test_samples_can_be_numbered_by_a_given_list_of_keys(tmp_path):
    path = tar_of(tmp_path / "s.tar", [(f"{key}.txt", key.encode()) for key in ("a", "é", "long key")])
    file = RowFile()
    indexed = IndexedTar(path, file, ["long key", "a"])
    assert indexed.keys() == ["long key", "a"] and indexed.members(0) == {"txt": b"long key"} and len(indexed) == 2
    assert IndexedTar(path, file).key(1) == "é" and indexed.key(1) == "a"
    with pytest.raises(IndexError):
        indexed.members(2)
    with pytest.raises(ShardError, match=r"s\.tar: sample 'b' is gone; run raw_shards again"):
        IndexedTar(path, file, ["a", "b"])


def test_a_full_disk_is_reported(tmp_path, monkeypatch):
    path = tar_of(tmp_path / "s.tar", [("a.txt", b"1")])
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: Path("/dev/full").open("wb", buffering=0))  # noqa: SIM115
    with pytest.raises(
        StoreError, match=r"temporary files: cannot be written \(No space left on device\); point TMPDIR"
    ):
        IndexedTar(path)


def _read(indexed, number):
    return indexed.members(number)


def test_processes_can_share_an_index(tmp_path):
    files = [(f"{number}.txt", str(number).encode()) for number in range(40)]
    indexed = IndexedTar(tar_of(tmp_path / "s.tar", files))
    assert indexed.members(7) == {"txt": b"7"}
    assert pickle.loads(pickle.dumps(indexed)).members(7) == {"txt": b"7"}  # noqa: S301
    with FORKSERVER.Pool(2) as pool:
        found = pool.starmap(_read, [(indexed, number) for number in range(40)])
    assert [members["txt"] for members in found] == [data for _, data in files]


def test_unrequested_extensions_take_no_space_in_the_index(tmp_path):
    files = [(f"{n}.{name}", name.encode()) for n in range(100) for name in ("jpg", "txt", f"meta{n}.json")]
    path = tar_of(tmp_path / "s.tar", files)
    usual, everything = IndexedTar(path, extensions=("png", "jpg", "txt")), IndexedTar(path)
    assert usual.members(7) == {"jpg": b"jpg", "txt": b"txt"} == usual.members(7, "jpg", "txt", "meta7.json")
    assert usual._rows.dtype.itemsize == 2 + 2 * 16 and everything._rows.dtype.itemsize == 2 + 102 * 16
    assert len(IndexedTar(path, extensions=())) == 100 and IndexedTar(path, extensions=()).members(0) == {}
