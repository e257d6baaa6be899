"""The format of the published reinforced datasets: encode and decode the tar members of a sample.

The members are an image, ``txt``, ``url.txt``, ``syn.json`` (captions by field ``syn_text<tag>``), ``paug.json``
(views), ``pth.gz`` or ``npz`` with the embeddings, and ``json`` with other fields. A tensor in ``pth.gz`` is bf16 and an
array in ``npz`` is float32. Teachers' embeddings are stored in bf16, so the tars of this project hold bf16 numbers in
both. Published ``npz`` members can be more precise.

There are two published layouts of the embeddings. DFNDR (MobileCLIP2) has ``text_emb [1, D]`` and
``syn_text<tag>_emb [captions, D]`` for each captioner. DataCompDR (MobileCLIP) has ``text_emb [1 + captions, D]`` with
the real caption first. :func:`decode` reads both layouts. :func:`encode` writes the first.
"""

from __future__ import annotations

import io
import json
import math
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from isal import isal_zlib

from mobileclip2.data.augmentation import View, parse_views
from mobileclip2.data.bounded_json import load_json
from mobileclip2.data.tar import MAX_SAMPLE_BYTES
from mobileclip2.data.validate import IMAGE_EXTENSIONS, MAX_TEXT_BYTES, image_extension
from mobileclip2.errors import ShardError

Storage = Literal["pth.gz", "npz"]
"""member with the embeddings: gzipped bf16, or the same numbers as float32 at twice the size"""

CAPTIONS = "syn_text"
"""prefix of the fields of synthetic captions"""

MEMBERS = (*IMAGE_EXTENSIONS, "txt", "url.txt", "syn.json", "paug.json", "npz", "pth.gz", "json")

_DTYPES = {torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2}
"""dtypes of embeddings; torch cannot convert every dtype of its own to float32"""

_GZIP = 16 + zlib.MAX_WBITS
"""zlib window bits of a gzip stream, which has no name and no time"""


@dataclass
class ReinforcedSample:
    """A sample. ``D`` is the sum of the teachers' dimensions. Rows are in the order of ``views`` and of the captions."""

    key: str
    caption: str
    views: list[View]
    captions: dict[str, list[str]]
    """captions by field, which :func:`encode` calls ``syn_text_<captioner>``"""
    image_emb: torch.Tensor
    """``[views, D]``, bf16 or fp32"""
    text_emb: torch.Tensor
    """``[1, D]``"""
    caption_embs: dict[str, torch.Tensor]
    """``[captions, D]`` by the field of the captions"""
    image: bytes | None = None
    """image file, or None if the images stay in the source shards"""
    extension: str = "jpg"
    url: str | None = None
    rest: dict[str, Any] = field(default_factory=dict)


def encode(sample: ReinforcedSample, storage: Storage) -> dict[str, bytes]:
    """Encode a sample as members by extension, in the order of the published datasets. The result is deterministic.

    Raises:
        ValueError: the shapes of the embeddings do not match the sample.
    """
    _check(sample)
    embeddings = {"image_emb": sample.image_emb, "text_emb": sample.text_emb}
    embeddings |= {f"{name}_emb": rows for name, rows in sample.caption_embs.items()}
    members = {} if sample.image is None else {sample.extension: sample.image}
    members["txt"] = sample.caption.encode()
    if sample.url is not None:
        members["url.txt"] = sample.url.encode()
    members["syn.json"] = json.dumps(sample.captions).encode()
    members["paug.json"] = json.dumps({"param_aug": [view.to_list() for view in sample.views]}).encode()
    members[storage] = pack(embeddings, storage)
    members["json"] = json.dumps(sample.rest).encode()
    return members


def decode(members: Mapping[str, bytes], key: str, shard: str) -> ReinforcedSample:
    """Decode the members of a sample in either published layout.

    Raises:
        ShardError: a member is missing or malformed, or two members disagree. The message names shard, sample and
            member.
    """
    try:
        return parse(members, key)
    except ValueError as error:
        raise ShardError(f"{shard}: sample '{key}': {error}; download or create the shard again") from error


def parse(members: Mapping[str, bytes], key: str) -> ReinforcedSample:
    """Decode the members of a sample as :func:`decode` does, without the shard in the message.

    Raises:
        ValueError: a member is missing or malformed, or two members disagree.
    """
    for name in ("txt", "syn.json", "paug.json"):
        if name not in members:
            raise ValueError(f"member '{name}' is missing among {', '.join(members) or 'none'}")
    extension = image_extension(members)
    captions = _captions(_object(members, "syn.json"))
    embeddings = unpack(members)
    for name in ("image_emb", "text_emb"):
        if name not in embeddings:
            raise ValueError(f"'{name}' is missing among the embeddings {', '.join(embeddings) or 'none'}")
    text_emb, caption_embs = _split_texts(embeddings, captions)
    sample = ReinforcedSample(
        key,
        _text(members, "txt"),
        _views(_object(members, "paug.json")),
        captions,
        embeddings["image_emb"],
        text_emb,
        caption_embs,
        image=members[extension] if extension else None,
        extension=extension or "jpg",
        url=_text(members, "url.txt") if "url.txt" in members else None,
        rest=_object(members, "json") if "json" in members else {},
    )
    _check(sample)
    return sample


def _check(sample: ReinforcedSample) -> None:
    expected = {
        "image_emb": (sample.image_emb, len(sample.views), "views in paug.json"),
        "text_emb": (sample.text_emb, 1, "txt"),
    }
    for name, texts in sample.captions.items():
        if name not in sample.caption_embs:
            raise ValueError(f"'{name}' in syn.json has no embeddings '{name}_emb'")
        expected[f"{name}_emb"] = sample.caption_embs[name], len(texts), f"captions '{name}' in syn.json"
    for name in sample.caption_embs:
        if name not in sample.captions:
            raise ValueError(f"embeddings '{name}_emb' have no captions '{name}' in syn.json")
    dim = sample.image_emb.shape[1] if sample.image_emb.ndim == 2 else 0
    for name, (rows, count, what) in expected.items():
        if rows.ndim != 2 or rows.shape[1] != dim or not dim:
            raise ValueError(
                f"'{name}' has shape {list(rows.shape)}; every row must have {dim} numbers, as in 'image_emb'"
            )
        if len(rows) != count:
            raise ValueError(f"'{name}' has {len(rows)} rows for {count} {what}")
        # The sum is much faster than isfinite(). It can overflow, so isfinite() confirms a failure.
        if not math.isfinite(rows.sum(dtype=torch.float32).item()) and not rows.isfinite().all():
            raise ValueError(f"'{name}' has numbers that are not finite")
    if not sample.views:
        raise ValueError("paug.json has no view")


def _split_texts(
    embeddings: dict[str, torch.Tensor], captions: dict[str, list[str]]
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return the embeddings of the real caption, and those of the synthetic captions by field, from either layout."""
    text_emb = embeddings["text_emb"]
    caption_embs = {
        name.removesuffix("_emb"): rows
        for name, rows in embeddings.items()
        if name.startswith(CAPTIONS) and name.endswith("_emb")
    }
    if caption_embs or len(text_emb) <= 1:
        return text_emb, caption_embs
    if len(captions) != 1:
        raise ValueError(
            f"'text_emb' has {len(text_emb)} rows, which needs one field of captions in syn.json, not {len(captions)}"
        )
    (name,) = captions
    return text_emb[:1], {name: text_emb[1:]}


def _captions(fields: dict[str, Any]) -> dict[str, list[str]]:
    captions = {name: texts for name, texts in fields.items() if name.startswith(CAPTIONS)}
    for name, texts in captions.items():
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"'{name}' in syn.json is not a list of captions")
    return captions


def _views(fields: dict[str, Any]) -> list[View]:
    if "param_aug" not in fields:
        raise ValueError(f"'param_aug' is missing in paug.json among {', '.join(fields) or 'none'}")
    try:
        return parse_views(fields["param_aug"])
    except ValueError as error:
        raise ValueError(f"paug.json: {error}") from error


def unpack(members: Mapping[str, bytes]) -> dict[str, torch.Tensor]:
    """Read embeddings by field from ``npz`` (float32) if it exists, or from ``pth.gz`` (bf16).

    Raises:
        ValueError: both members are missing, or the member cannot be read.
    """
    name = next((name for name in ("npz", "pth.gz") if name in members), None)
    if name is None:
        raise ValueError(f"no embeddings: neither 'npz' nor 'pth.gz' is among {', '.join(members)}")
    try:
        fields = _read_npz(members[name]) if name == "npz" else _read_pth_gz(members[name])
    except MemoryError:
        raise
    except Exception as error:  # the readers raise arbitrary exceptions for damaged input
        raise ValueError(f"'{name}' cannot be read ({str(error)[:200]})") from error
    if not isinstance(fields, dict):
        raise ValueError(f"'{name}' must be a mapping of fields, not a {type(fields).__name__}")
    found = {
        str(key): value for key, value in fields.items() if isinstance(value, torch.Tensor) and value.dtype in _DTYPES
    }
    for key, rows in found.items():
        # torch.load() also returns expanded, sparse and meta tensors, which can have any shape
        if rows.layout != torch.strided or rows.is_meta or rows.nbytes > rows.untyped_storage().nbytes():
            raise ValueError(f"'{key}' in '{name}' has shape {list(rows.shape)}, but not that many numbers")
    if (size := sum(rows.nbytes for rows in found.values())) > MAX_SAMPLE_BYTES:
        raise ValueError(f"the embeddings in '{name}' have {size:,} bytes; at most {MAX_SAMPLE_BYTES:,}")
    return found


def _read_npz(data: bytes) -> dict[str, torch.Tensor]:
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        _check_unpacked(sum(entry.file_size for entry in arrays.zip.infolist()))
        try:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files if arrays[name].dtype.kind == "f"}
        except MemoryError as error:  # a header declares more than its member holds
            raise ValueError(str(error)) from None


def _check_unpacked(size: int) -> None:
    if size > MAX_SAMPLE_BYTES:
        raise ValueError(f"more than {MAX_SAMPLE_BYTES:,} bytes after decompression")


def _read_pth_gz(data: bytes) -> Any:
    stream = isal_zlib.decompressobj(wbits=_GZIP)
    archive = bytearray(stream.decompress(data, MAX_SAMPLE_BYTES + 1))
    _check_unpacked(len(archive))
    if not stream.eof:
        raise EOFError("the compressed data ends early")
    tensors = next((tensors for head, tensors in _LAYOUTS.get(len(archive), ()) if archive.startswith(head)), None)
    if tensors is None:
        fields = torch.load(io.BytesIO(archive), map_location="cpu", weights_only=True)
        _learn_layout(archive, fields)
        return fields
    return {
        name: torch.frombuffer(archive, dtype=dtype, count=shape.numel(), offset=start).view(shape)
        for name, dtype, shape, start in tensors
    }


_Layout = tuple[bytes, list[tuple[str, torch.dtype, torch.Size, int]]]
"""head of an archive of ``torch.save``, and name, dtype, shape and offset of each tensor

The head is what lies before the first tensor: also the pickle with dtypes and shapes, so that all archives with the same head
have the same layout. ``torch.load`` would be the slowest step of decoding a sample. The samples of a dataset share few layouts.
"""

MAX_LAYOUTS = 256
"""maximum number of known layouts; a dataset has one for each number of captions that its samples have"""

MAX_HEAD_BYTES = 64 << 10
"""maximum size of the head of a known layout; usual ones have about 1 KiB"""

_LAYOUTS: dict[int, list[_Layout]] = {}
"""known layouts by the length of the archive"""


def _learn_layout(archive: bytearray, fields: Any) -> None:
    """Add the layout of an archive to the known ones if its tensors are contiguous and separate."""
    if (
        not isinstance(fields, dict)
        or not fields
        or not all(isinstance(each, torch.Tensor) for each in fields.values())
    ):
        return
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        entries = {entry.filename.partition("/")[2]: entry for entry in file.infolist()}
    if sum(name.startswith("data/") for name in entries) != len(fields):
        return
    tensors = []
    for number, (name, tensor) in enumerate(fields.items()):
        entry = entries.get(f"data/{number}")
        if (
            entry is None
            or entry.compress_type != zipfile.ZIP_STORED
            or not tensor.is_contiguous()
            or not tensor.numel()
        ):
            return
        name_length, extra_length = struct.unpack_from("<HH", archive, entry.header_offset + 26)
        start = entry.header_offset + 30 + name_length + extra_length
        if archive[start : start + entry.file_size] != tensor.view(torch.uint8).numpy().tobytes():
            return
        tensors.append((name, tensor.dtype, tensor.shape, start))
    first = min(start for *_, start in tensors)
    if entries["data.pkl"].header_offset >= first or first > MAX_HEAD_BYTES:
        return
    if sum(map(len, _LAYOUTS.values())) >= MAX_LAYOUTS:
        _LAYOUTS.clear()
    _LAYOUTS.setdefault(len(archive), []).append((bytes(archive[:first]), tensors))


def pack(embeddings: dict[str, torch.Tensor], storage: Storage) -> bytes:
    """Encode embeddings ``[n, D]`` by field."""
    buffer = io.BytesIO()
    if storage == "npz":
        np.savez(buffer, allow_pickle=False, **{name: rows.float().numpy() for name, rows in embeddings.items()})
        return buffer.getvalue()
    # torch.save() would store the complete storage of a slice, so each tensor is copied.
    torch.save({name: rows.to(torch.bfloat16, copy=True).contiguous() for name, rows in embeddings.items()}, buffer)
    # Embeddings have no repeated strings. Run-length and Huffman coding alone take a fifth of the time.
    compressor = zlib.compressobj(wbits=_GZIP, strategy=zlib.Z_RLE)
    return compressor.compress(buffer.getvalue()) + compressor.flush()


def _object(members: Mapping[str, bytes], name: str) -> dict[str, Any]:
    if len(members[name]) > MAX_TEXT_BYTES:
        raise ValueError(f"'{name}' has {len(members[name]):,} bytes; at most {MAX_TEXT_BYTES:,}")
    try:
        value = load_json(members[name])
    except ValueError as error:
        raise ValueError(f"'{name}' is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f"'{name}' is not a mapping of fields")
    return value


def _text(members: Mapping[str, bytes], name: str) -> str:
    try:
        return members[name].decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"'{name}' is not UTF-8 at byte {error.start}") from error
