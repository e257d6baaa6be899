"""The readers compare declared sizes with the file.

A false header therefore costs no more time or memory than the file itself.
"""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from mobileclip2.config.filters import Filters
from mobileclip2.data.indexed_tar import IndexedTar
from mobileclip2.data.reinforced_format import unpack
from mobileclip2.data.tar import MAX_PATH_BYTES, RawSample, read_samples
from mobileclip2.data.validate import MAX_TEXT_BYTES, validate_shard
from mobileclip2.errors import ShardError


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """Return a header with its size in base 256, as GNU tar writes negative sizes and sizes from 8 GiB."""
    info = tarfile.TarInfo(name)
    info.type = kind
    data = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    data[124:136] = (b"\xff" if size < 0 else b"\x80") + size.to_bytes(11, "big", signed=True)
    return checked(data)


def checked(data: bytearray) -> bytes:
    data[148:156] = b" " * 8
    data[148:156] = f"{sum(data):06o}\0 ".encode()
    return bytes(data)


def octal(name: str, size: bytes) -> bytes:
    data = bytearray(tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT))
    data[124:136] = size.ljust(12, b"\0")
    return checked(data)


def pax(fields: dict[str, str], name: str = "b.jpg") -> bytes:
    records = b""
    for key, value in fields.items():
        record = f" {key}={value}\n".encode()
        length = len(record) + len(str(len(record) + 2))
        records += str(length).encode() + record
    padded = records.ljust(-(-len(records) // 512) * 512, b"\0")
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, len(records)
    return info.tobuf(tarfile.USTAR_FORMAT) + padded + header(name, 5) + b"hello".ljust(512, b"\0")


GOOD = header("a.jpg", 5) + b"hello".ljust(512, b"\0")
END = bytes(1024)

ATTACKS: dict[str, bytes] = {
    "2^62 bytes": header("b.jpg", 1 << 62),
    "2^62 bytes of a name without a key": header(".hidden", 1 << 62),
    "2^62 bytes of an unknown type": header("b.jpg", 1 << 62, b"Z"),
    "2^87 bytes": header("b.jpg", (1 << 87) - 1),
    "a negative size": header("b.jpg", -1),
    "a size that leads back to its own header": header("b.jpg", -512),
    "a size that leads back to the start": header("b.jpg", -1536),
    "a negative size without a key": header(".hidden", -1024),
    "a negative octal size": octal("b.jpg", b"-1000"),
    "a long name of 3 GB": header("././@LongLink", 3 << 30, tarfile.GNUTYPE_LONGNAME),
    "a long name of negative length": header("././@LongLink", -512, tarfile.GNUTYPE_LONGNAME),
    "extended fields of 3 GB": header("pax", 3 << 30, tarfile.XHDTYPE),
    "global fields of 3 GB": header("pax", 3 << 30, tarfile.XGLTYPE),
    "extended fields of negative length": header("pax", -512, tarfile.XHDTYPE),
    "an extended size of 2^62": pax({"size": str(1 << 62)}),
    "a negative extended size": pax({"size": "-1024"}),
    "a sparse map without numbers": pax({"GNU.sparse.map": "a,b", "GNU.sparse.size": "x"}),
    "a negative sparse size": pax({"GNU.sparse.map": "0,5", "GNU.sparse.size": "-5"}),
    "2,000 long names for one member": (header("././@LongLink", 2, tarfile.GNUTYPE_LONGNAME) + b"a\0".ljust(512, b"\0"))
    * 2000,
}


def stream(path: Path) -> list[str]:
    with path.open("rb") as file:
        return [sample.key for sample in read_samples(file, str(path))]


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("reader", [stream, IndexedTar])
def test_a_false_header_is_damage(reader: Callable[[Path], object], attack: str, tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(GOOD + ATTACKS[attack] + END)
    tracemalloc.start()
    with pytest.raises(ShardError, match=r"s\.tar"):
        reader(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_false_header_of_the_first_member_is_damage(attack: str, tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(ATTACKS[attack] + END)
    for reader in (stream, IndexedTar):
        with pytest.raises(ShardError, match=r"s\.tar"):
            reader(path)


@pytest.mark.parametrize("names", [["é.jpg"], ["x" * 3000 + ".jpg"], ["a.jpg", "é.jpg"], ["é.jpg", "a.jpg"]])
@pytest.mark.parametrize("flavor", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_a_file_without_padding_is_read_to_its_last_byte(names: list[str], flavor: int, tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w", format=flavor) as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 600
            tar.addfile(info, io.BytesIO(bytes(600)))
        end = tar.offset
    path.write_bytes(path.read_bytes()[:end] + END)
    assert len(stream(path)) == len(IndexedTar(path)) == len(names)


def test_a_long_path_is_a_bad_sample_and_not_in_the_index(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name in ("a.jpg", "x" * 2 * MAX_PATH_BYTES + ".jpg", "é" * (MAX_PATH_BYTES // 2) + ".jpg", "b.jpg"):
            tar.addfile(tarfile.TarInfo(name))
    with path.open("rb") as file:
        found = [(sample.key[:1], sample.fault and sample.fault.reason) for sample in read_samples(file, "s")]
    assert found == [("a", None), ("x", "bad-key"), ("é", "bad-key"), ("b", None)]
    assert IndexedTar(path).keys() == ["a", "b"]


@pytest.mark.parametrize(
    ("member", "text"),
    [
        ("json", b"[" + b"[]," * (MAX_TEXT_BYTES // 3) + b"[]]"),
        ("txt", b"a " * MAX_TEXT_BYTES),
        ("json", b'{"caption": "a", "n": 1%s}' % (b"0" * 5000)),
    ],
)
def test_a_text_is_read_up_to_its_limit(member: str, text: bytes) -> None:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "png")
    sample = RawSample("a", {"png": buffer.getvalue(), member: text})
    validate_shard([RawSample("b")], Filters())  # the first table imports pandas
    tracemalloc.start()
    skipped = validate_shard([sample], Filters())[1].to_pylist()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [row["reason"] for row in skipped] == ["bad-json" if len(text) < MAX_TEXT_BYTES else "text-too-large"]
    assert peak < 4 << 20


def npz(shape: str) -> bytes:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("image_emb.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(16))
    return buffer.getvalue()


def zip_bomb() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file, file.open("image_emb.npy", "w") as member:
        for _ in range(300):
            member.write(bytes(1 << 20))
    return buffer.getvalue()


def gzip_bomb() -> bytes:
    compressor = zlib.compressobj(9, wbits=31)
    return b"".join(compressor.compress(bytes(1 << 20)) for _ in range(300)) + compressor.flush()


@pytest.mark.parametrize(
    ("name", "member"),
    [
        ("npz", partial(npz, "(1000000000000000,)")),
        ("npz", partial(npz, "(4611686018427387904, 4)")),
        ("npz", partial(npz, "(-1,)")),
        ("npz", zip_bomb),
        ("pth.gz", gzip_bomb),
        ("pth.gz", lambda: gzip_bomb()[:1000]),
    ],
    ids=["npz-huge", "npz-overflow", "npz-negative", "npz-bomb", "gz-bomb", "gz-cut"],
)
def test_embeddings_that_declare_too_much_are_refused(name: str, member: Callable[[], bytes]) -> None:
    members = {name: member()}
    with pytest.raises(ValueError, match="cannot be read"):
        unpack(members)


def pth_gz(fields: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(fields, buffer)
    return gzip.compress(buffer.getvalue())


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (torch.ones(1).expand(1, 1 << 34), "has shape [1, 17179869184], but not that many numbers"),
        (torch.ones(1).expand(1, 2), "has shape [1, 2], but not that many numbers"),
        (torch.ones(1, 8).to_sparse(), "has shape [1, 8], but not that many numbers"),
        (torch.ones(1, 8, device="meta"), "has shape [1, 8], but not that many numbers"),
    ],
    ids=["huge", "small", "sparse", "meta"],
)
@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
def test_a_tensor_that_stores_fewer_numbers_than_its_shape_is_refused(rows: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        unpack({"pth.gz": pth_gz({"image_emb": rows})})


def test_every_tensor_of_a_shared_storage_counts_toward_the_limit() -> None:
    rows = torch.zeros(1, 1 << 20)
    with pytest.raises(ValueError, match=r"the embeddings in 'pth\.gz' have 272,629,760 bytes; at most 268,435,456"):
        unpack({"pth.gz": pth_gz({f"syn_text_{number}_emb": rows.view(1, -1) for number in range(65)})})


def test_dtypes_that_torch_cannot_convert_are_not_embeddings() -> None:
    rows = torch.zeros(1, 4, dtype=torch.uint8)
    fields = {"image_emb": rows.view(torch.float4_e2m1fn_x2), "text_emb": rows, "syn_text_emb": rows.half()}
    assert list(unpack({"pth.gz": pth_gz(fields)})) == ["syn_text_emb"]
