"""WebDataset tars, as in DFN and img2dataset. Consecutive members with the same key are one sample."""

from __future__ import annotations

import io
import os
import tarfile
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self

from mobileclip2.data.bad_sample import BadSample
from mobileclip2.errors import ShardError
from mobileclip2.store.storage import atomic_path

MAX_SAMPLE_BYTES = 256 << 20
"""maximum size of a sample, which bounds the memory of a worker"""
MAX_PATH_BYTES = 4096
"""maximum length of a member path, as in Linux"""
MAX_HEADER_BYTES = 256 << 10
"""maximum size of an extended header, which ``tarfile`` reads into memory"""


@dataclass
class RawSample:
    """Members of one key by lower-case extension, which starts after the first "." of the base name.

    A sample with a ``fault`` cannot be used and has no members.
    """

    key: str
    members: dict[str, bytes] = field(default_factory=dict)
    fault: BadSample | None = None


@dataclass
class ScannedSample:
    """Position of the members of one key in a tar.

    A sample with a ``fault`` cannot be used and has no spans.
    """

    key: str
    spans: dict[str, tuple[int, int]] = field(default_factory=dict)
    """offset and size by lower-case extension"""
    fault: BadSample | None = None


def scan_samples(file: BinaryIO, name: str, ignored: Counter[str] | None = None) -> Iterator[ScannedSample]:
    """Yield the samples of an uncompressed tar in order, from its headers. ``file`` is seekable.

    This function alone decides what a sample is. :func:`read_samples` and
    :class:`~mobileclip2.data.indexed_tar.IndexedTar` read the spans that it finds.

    Bad samples have a fault: ``bad-path`` (absolute or with ".."), ``bad-key`` (not UTF-8, or control characters),
    ``sample-too-large``, ``sparse-member``, or ``duplicate-key`` (the key occurred earlier in the tar). ``ignored`` counts
    members outside any sample by kind: links, devices, names without key or extension.

    Raises:
        ShardError: the file is truncated, damaged or not a tar. The message has ``name``, the byte and the last complete
            sample. All complete samples before the damage are yielded first.
    """
    tar: tarfile.TarFile | None = None
    position = "no complete sample precedes it"
    try:
        end = file.seek(0, os.SEEK_END)
        file.seek(0)
        # the default encoding depends on the locale
        tar = tarfile.TarFile.open(fileobj=file, mode="r:", tarinfo=_StrictHeader, encoding="utf-8")
        # opening it has read the first header
        tar.offset, tar.firstmember = 0, None  # type: ignore[attr-defined]  # firstmember is not in typeshed
        clear_headers(tar)
        for sample in _group(_walk(tar, file, end), Counter() if ignored is None else ignored):
            yield sample
            position = f"the last complete sample is '{sample.key}'"
        file.seek(tar.offset)
        while block := file.read(tarfile.RECORDSIZE):
            if block.strip(b"\0"):  # a hole or a second tar would hide samples
                raise tarfile.ReadError("more data follows the end-of-archive marker")
    except (tarfile.TarError, UnicodeError) as error:
        if tar is None:
            raise ShardError(f"{name}: {_not_a_tar(error, file)}") from error
        byte = min(tar.offset, end)
        message = f"cut off or damaged at byte {byte:,} ({error}); {position}. Fetch the shard again"
        raise ShardError(f"{name}: {message}") from error
    except OSError as error:
        raise ShardError(f"{name}: cannot be read: {error}") from error


def read_samples(file: BinaryIO, name: str, ignored: Counter[str] | None = None) -> Iterator[RawSample]:
    """Yield the samples of :func:`scan_samples` with the bytes of their members. One sample is in memory.

    Raises:
        ShardError: the file is truncated, damaged or not a tar, or it changes while it is read.
    """
    for sample in scan_samples(file, name, ignored):
        members = {}
        for extension, (offset, size) in sample.spans.items():
            try:
                file.seek(offset)
                members[extension] = file.read(size)
            except OSError as error:
                raise ShardError(f"{name}: cannot be read: {error}") from error
            if len(members[extension]) != size:
                raise ShardError(f"{name}: ends within '{sample.key}.{extension}'. Fetch the shard again")
        yield RawSample(sample.key, members, sample.fault)


class TarWriter:
    """Write a deterministic tar: members have no times and no owners.

    A file at a path is written atomically. It appears if the block succeeds.

    Raises:
        ValueError: :func:`read_samples` would return another key or extension.
    """

    def __init__(self, target: Path | BinaryIO) -> None:
        with ExitStack() as stack:
            if isinstance(target, Path):
                target = stack.enter_context(stack.enter_context(atomic_path(target)).open("wb"))
            tar = tarfile.TarFile(fileobj=target, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8")
            self._tar = stack.enter_context(tar)
            self._stack = stack.pop_all()

    def write(self, key: str, members: Mapping[str, bytes]) -> None:
        """Append a sample. ``members`` are by extension."""
        for extension, data in members.items():
            path = f"{key}.{extension}"
            if split_path(path) != (key, extension) or path_fault(path):
                raise ValueError(f"'{path}' would not be read back as member '{extension}' of sample '{key}'")
            info = tarfile.TarInfo(path)
            info.size, info.mode = len(data), 0o644
            self._tar.addfile(info, io.BytesIO(data))
            clear_headers(self._tar)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)


_EXTENDED = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


class _StrictHeader(tarfile.TarInfo):
    """A header whose damage is an error. ``tarfile`` treats damaged headers as the end of the archive."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # not in typeshed
            raise
        except (tarfile.HeaderError, ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise tarfile.ReadError(f"damaged header: {error}") from error

    def _proc_member(self, tar: tarfile.TarFile) -> Self:
        if self.type in _EXTENDED and not 0 <= self.size <= MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"an extended header of {self.size:,} bytes; at most {MAX_HEADER_BYTES:,}")
        return super()._proc_member(tar)  # type: ignore[misc, no-any-return]  # not in typeshed

    def _proc_gnusparse_10(self, *_: object) -> None:
        """Do not read the map of a sparse member, which can be as large as the file."""


class _Member(NamedTuple):
    name: str
    offset: int
    """start of the data"""
    size: int
    kind: str
    """``file``, ``sparse``, ``folder``, ``link`` or ``device``"""


def _walk(tar: tarfile.TarFile, file: BinaryIO, end: int) -> Iterator[_Member]:
    """Yield the members of a tar of ``end`` bytes. Between two members, the position of the file may change.

    Raises:
        ReadError: a header is damaged, a member cannot lie in the file, a global header changes members, or the end marker is
            missing.
    """
    while True:
        file.seek(tar.offset)
        # global fields apply to the members after them, which the plain header does not show
        plain = None if tar.pax_headers else _parse_plain_header(file.read(tarfile.BLOCKSIZE))
        if plain:
            name, size = plain
            start, kind = tar.offset + tarfile.BLOCKSIZE, "file"
            tar.offset = start + -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        else:
            file.seek(tar.offset)
            info = tar.next()
            if info is None:
                return
            clear_headers(tar)
            name, start, size, kind = info.name, info.offset_data, info.size, _kind(info)
            if found := _GLOBAL.intersection(tar.pax_headers):
                raise tarfile.ReadError(f"a global header sets '{min(found)}' of all members")
        # the offset is now the start of the next header
        if size < 0 or tar.offset < start:
            tar.offset = start - tarfile.BLOCKSIZE
            raise tarfile.ReadError(f"'{name[:200]}' declares {size:,} bytes")
        if tar.offset > end:
            raise tarfile.ReadError(f"'{name[:200]}' ends at byte {tar.offset:,}, behind the file")
        if kind == "file" and start + size > tar.offset:
            raise tarfile.ReadError(f"'{name[:200]}' declares {size:,} bytes and its header another size")
        yield _Member(name, start, size, kind)


_GLOBAL = {"path", "linkpath", "size", "hdrcharset"}
"""fields of a global header that would give all members one name or size, or another encoding"""


def _parse_plain_header(header: bytes) -> tuple[str, int] | None:
    """Return name and size from a plain file header, or None. This is several times as fast as ``tarfile``."""
    if header[156:157] != b"0" or header[257:262] != b"ustar" or header[345:346] != b"\0":
        return None
    try:
        if int(header[148:156].split(b"\0")[0], 8) != sum(header[:148]) + sum(header[156:]) + 8 * ord(" "):
            return None
        return header[:100].split(b"\0")[0].decode("ascii"), int(header[124:136].rstrip(b"\0 "), 8)
    except ValueError:
        return None


def _group(members: Iterator[_Member], ignored: Counter[str]) -> Iterator[ScannedSample]:
    seen: set[str] = set()
    sample: ScannedSample | None = None
    extensions: set[str] = set()
    size = 0
    for member in members:
        parts = split_path(member.name)
        if member.kind not in ("file", "sparse") or parts is None:
            if member.kind != "folder":
                ignored["no-key" if member.kind in ("file", "sparse") else member.kind] += 1
            continue
        key, extension = parts
        if sample is None or sample.key != key or extension in extensions:
            if sample is not None:
                yield sample
            sample, extensions, size = ScannedSample(key), set(), 0
            if key in seen:
                sample.fault = BadSample("duplicate-key", "the key came earlier; members must lie side by side")
            seen.add(key)
        extensions.add(extension)
        size += member.size
        sample.fault = sample.fault or _fault(member, size)
        if sample.fault:
            sample.spans.clear()
        else:
            sample.spans[extension] = member.offset, member.size
    if sample is not None:
        yield sample


def _fault(member: _Member, size: int) -> BadSample | None:
    """Return the fault of a member that brings its sample to ``size`` bytes, or None."""
    if fault := path_fault(member.name):
        return fault
    if member.kind == "sparse":
        return BadSample(
            "sparse-member", f"'{member.name}' is stored as a sparse file; pack the shard without '--sparse'"
        )
    if size > MAX_SAMPLE_BYTES:
        detail = f"'{member.name}' brings it to {size:,} bytes; at most {MAX_SAMPLE_BYTES:,}"
        return BadSample("sample-too-large", detail)
    return None


def clear_headers(tar: tarfile.TarFile) -> None:
    """Clear the header cache of ``tarfile``, which grows with the shard."""
    tar.members.clear()  # type: ignore[attr-defined]  # not in typeshed


def split_path(path: str) -> tuple[str, str] | None:
    """Split a path into key and extension. Return None if one is missing, as in hidden files or README."""
    folder, slash, base = path.removeprefix("./").rpartition("/")
    stem, _, extension = base.partition(".")
    if not stem or not extension:
        return None
    return (folder + slash + stem).encode(errors="backslashreplace").decode(), extension.lower()


def path_fault(path: str) -> BadSample | None:
    """Return the fault of an unsafe or unreadable member path, or None."""
    if len(path) > MAX_PATH_BYTES // 4 and len(path.encode(errors="backslashreplace")) > MAX_PATH_BYTES:
        return BadSample("bad-key", f"the member path has {len(path):,} characters; at most {MAX_PATH_BYTES:,} bytes")
    if path.startswith("/") or ".." in path.split("/"):
        return BadSample("bad-path", f"the member path '{path}' leaves the folder of the shard")
    if not path.isprintable() and any(unicodedata.category(character) in ("Cc", "Cs") for character in path):
        return BadSample("bad-key", f"the member path {path!a} is not UTF-8 or holds control characters")
    return None


def _kind(info: tarfile.TarInfo) -> str:
    if info.type == tarfile.GNUTYPE_SPARSE or any(field.startswith("GNU.sparse.") for field in info.pax_headers):
        return "sparse"
    if info.isreg():
        return "file"
    if info.isdir():
        return "folder"
    return "link" if info.issym() or info.islnk() else "device"


_COMPRESSED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ": "xz"}
"""command of a compression by the first bytes of its files"""


def _not_a_tar(error: Exception, file: BinaryIO) -> str:
    start = b""
    with suppress(AttributeError, OSError):
        file.seek(0)
        start = file.read(5)
    for magic, command in _COMPRESSED.items():
        if start.startswith(magic):
            return (
                f"not a tar but compressed with {command}; shards are plain tars. Make one of it: "
                f"{command} -dc FILE > PLAIN.tar"
            )
    return f"not a tar ({error}); fetch it again, or exclude it with the source's 'pattern'"
