"""safetensors files that contain the sha256 of their own bytes, for unfinished work and caches.

The hash is in the metadata of the header. It is the hash of the complete file with 64 zeros in its place, so it covers names,
shapes, metadata and order too. Every program that reads safetensors reads these files. The order of the metadata varies, so
equal tensors can give files of different bytes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from io import BufferedRandom, BufferedReader
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from mobileclip2.errors import StoreError, WeightsError
from mobileclip2.models.tensors import separate
from mobileclip2.store.storage import atomic_path

SHA256 = "sha256"
_BLANK = b"0" * 64
_STATED = re.compile(rb'"sha256":"([0-9a-f]{64})"')
_LARGEST_HEADER = 100_000_000
"""bytes; the limit of safetensors"""


class DamagedTensors(WeightsError):
    """A file cannot be read, or its bytes differ from its hash."""


def write_sealed(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata atomically, with a hash of all bytes.

    Raises:
        StoreError: the disk is full or cannot be written.
    """
    with atomic_path(path) as temporary:
        try:
            save_file(separate(tensors), temporary, {**metadata, SHA256: _BLANK.decode()})
        except SafetensorError as error:  # it hides the error number
            raise StoreError(
                f"{path}: cannot be written ({error}); free some space or correct the permissions, and run again"
            ) from error
        with temporary.open("r+b") as file:
            _, position, sha256 = _hashes(file)
            file.seek(position)
            file.write(sha256.encode())


def read_metadata(path: Path) -> dict[str, str]:
    """Read the metadata without a comparison with the hash.

    Raises:
        DamagedTensors: the file cannot be read.
    """
    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise DamagedTensors(f"{path}: damaged: it cannot be read ({error})") from error


def read_sealed(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors and metadata, and compare all bytes with the hash.

    Raises:
        DamagedTensors: the file cannot be read or differs from its hash.
    """
    try:
        with path.open("rb") as file:
            stated, _, sha256 = _hashes(file)
        if stated != sha256:
            raise DamagedTensors(f"{path}: damaged: its sha256 is {sha256[:12]}…, but it says {stated[:12]}…")
        return load_file(path), read_metadata(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise DamagedTensors(f"{path}: damaged: it cannot be read ({error})") from error


def _hashes(file: BufferedReader | BufferedRandom) -> tuple[str, int, str]:
    """Return the hash that a file states, its position in the file, and the hash of the file with zeros in its place."""
    size = file.read(8)
    length = int.from_bytes(size, "little")
    if length > _LARGEST_HEADER:
        raise ValueError(f"its header has {length} bytes")
    header = file.read(length)
    stated = _STATED.findall(header)
    if len(stated) != 1:
        raise ValueError("its header has no sha256")
    position = header.index(stated[0])
    blank = header[:position] + _BLANK + header[position + len(_BLANK) :]
    digest = hashlib.file_digest(file, lambda: hashlib.sha256(size + blank))
    return stated[0].decode(), len(size) + position, digest.hexdigest()
