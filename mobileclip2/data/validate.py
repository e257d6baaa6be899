"""Validate the samples of a shard: a table of valid samples and a table of skipped samples with reasons."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import pyarrow as pa

from mobileclip2.config.filters import Filters
from mobileclip2.data import image
from mobileclip2.data.bad_sample import BadSample
from mobileclip2.data.bounded_json import load_json
from mobileclip2.data.caption_text import check_content, is_visible
from mobileclip2.data.sidecar import required
from mobileclip2.data.tar import RawSample, read_samples
from mobileclip2.errors import ShardError

MAX_TEXT_BYTES = 4 << 20
"""maximum size of a caption or JSON member; parsed JSON needs 30 times its size"""
IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")

KEPT = required(
    key=pa.string(), caption=pa.string(), width=pa.int32(), height=pa.int32(), image=pa.string(), sha256=pa.string()
).append(pa.field("url", pa.string()))
"""schema of valid samples in the order of the shard; ``image`` is the extension of the image member"""

SKIPPED = required(key=pa.string(), reason=pa.string(), detail=pa.string())
"""schema of skipped samples in the order of the shard"""


def validate_shard(
    samples: Iterable[RawSample],
    filters: Filters,
    caption_keys: Sequence[str] = (),
    ignored: Counter[str] | None = None,
) -> tuple[pa.Table, pa.Table]:
    """Decode every image and read every caption. Return the tables of valid and of skipped samples.

    The schemas are :data:`KEPT` and :data:`SKIPPED`. ``ignored`` counts members that no sample uses, by extension.
    ``caption_keys`` are members, or fields of ``json``, with a caption. The first valid one counts. The default is ``txt``, or
    ``caption`` in ``json`` without ``txt``.

    Reasons in addition to those of :func:`read_samples` and :func:`image.decode`: ``missing-image``,
    ``image-too-small``, ``image-too-long``, ``missing-caption``, ``empty-caption``, ``invalid-utf8``,
    ``text-too-large``, ``nul-in-caption``, ``caption-too-short``, ``caption-too-long``,
    ``placeholder-caption``, ``literal-caption``, ``dotted-key``, ``bad-json`` (only without ``txt``).
    """
    rows: list[dict[str, Any]] = []
    skipped: list[dict[str, str]] = []
    for sample in samples:
        pairs = _other_pairs(sample)
        try:
            if image_extension(sample.members) or not pairs:
                rows.append(validate(sample, filters, caption_keys))
        except BadSample as bad:
            skipped.append({"key": sample.key, "reason": bad.reason, "detail": bad.detail})
        for stem in pairs:
            skipped.append({"key": f"{sample.key}.{stem}", "reason": _DOTTED.reason, "detail": _DOTTED.detail})
        if ignored is not None:
            ignored.update(_unused(sample, pairs).difference(caption_keys))
    return pa.Table.from_pylist(rows, KEPT), pa.Table.from_pylist(skipped, SKIPPED)


_DOTTED = BadSample(
    "dotted-key",
    "a key ends at the first '.' of the file name, so this pair is part of another sample; rename both files",
)


def _other_pairs(sample: RawSample) -> list[str]:
    """Return what follows the key in the names of further images that have a text of their own, such as ``v2``."""
    names = [extension.rpartition(".") for extension in sample.members]
    stems = sorted({stem for stem, _, kind in names if stem and kind in IMAGE_EXTENSIONS})
    return [stem for stem in stems if not {f"{stem}.txt", f"{stem}.json"}.isdisjoint(sample.members)]


def _unused(sample: RawSample, pairs: list[str]) -> set[str]:
    """Return the extensions of the members that validation neither reads nor counts as a pair."""
    used = {image_extension(sample.members), "txt", "json", "url.txt"}
    used |= {f"{stem}.{kind}" for stem in pairs for kind in ("txt", "json", *IMAGE_EXTENSIONS)}
    return set(sample.members) - used


def check_share(skipped: pa.Table, total: int, limit: float, shard: str) -> None:
    """Check that at most the share ``limit`` of ``total`` samples is skipped.

    Raises:
        ShardError: more samples are skipped. The message lists each reason with its count and first keys.
    """
    if skipped.num_rows <= limit * total:
        return
    keys: dict[str, list[str]] = {}
    for row in skipped.to_pylist():
        keys.setdefault(row["reason"], []).append(row["key"])
    lines = [
        f"  {reason}: {len(bad)} ({', '.join(bad[:3])}{', ...' if len(bad) > 3 else ''})"
        for reason, bad in sorted(keys.items(), key=lambda item: -len(item[1]))
    ]
    raise ShardError(
        f"{shard}: {skipped.num_rows} of {total} samples are bad, more than the accepted {limit:.1%}. "
        "Repair the shard, relax 'filters' or raise 'max_bad_share'\n" + "\n".join(lines)
    )


def iter_valid(file: BinaryIO, name: str, keys_in_order: Iterable[str]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield key and members of the valid samples of a shard.

    Raises:
        ShardError: a valid sample is missing, or the shard cannot be read.
    """
    samples = (sample for sample in read_samples(file, name) if sample.fault is None)
    for key in keys_in_order:
        sample = next((sample for sample in samples if sample.key == key), None)
        if sample is None:
            raise ShardError(f"{name}: sample '{key}' is gone since the shard was validated; run raw_shards again")
        yield key, sample.members


def check_image(image: bytes, row: Mapping[str, Any], name: str) -> bytes:
    """Return an image that has the hash of its row, whose schema is :data:`KEPT`.

    Raises:
        ShardError: it has changed since its validation. The message starts with ``name``, a shard.
    """
    if hashlib.sha256(image).hexdigest() != row["sha256"]:
        raise ShardError(
            f"{name}: '{row['key']}.{row['image']}' has changed since it was validated; restore the shard, or run again"
        )
    return image


def validate(sample: RawSample, filters: Filters, caption_keys: Sequence[str] = ()) -> dict[str, Any]:
    """Decode the image and read the caption of a sample. Return its row with schema :data:`KEPT`.

    Raises:
        BadSample: the sample cannot be used.
    """
    if sample.fault:
        raise sample.fault
    extension = image_extension(sample.members)
    if extension is None:
        has = ", ".join(sample.members)
        raise BadSample("missing-image", f"no member is one of {', '.join(IMAGE_EXTENSIONS)}; it has {has}")
    data = sample.members[extension]
    width, height = _size(data, filters)
    caption = _first_caption(sample.members, filters, caption_keys)
    image.decode(data, max_pixels=filters.max_pixels)
    return {
        "key": sample.key,
        "caption": caption,
        "width": width,
        "height": height,
        "image": extension,
        "sha256": hashlib.sha256(data).hexdigest(),
        "url": _url(sample.members),
    }


def image_extension(members: Mapping[str, bytes]) -> str | None:
    """Return the extension of the image among members, or None."""
    return next((name for name in IMAGE_EXTENSIONS if name in members), None)


def _size(data: bytes, filters: Filters) -> tuple[int, int]:
    width, height = image.size(data)
    shorter, longer = sorted((width, height))
    if shorter < filters.min_side:
        raise BadSample("image-too-small", f"{width} x {height} pixels; a side has at least {filters.min_side}")
    if filters.max_aspect is not None and longer > filters.max_aspect * shorter:
        raise BadSample("image-too-long", f"{width} x {height} pixels; at most {filters.max_aspect:g} to 1")
    return width, height


def _first_caption(members: Mapping[str, bytes], filters: Filters, keys: Sequence[str]) -> str:
    """Return the first valid caption. If all are bad, raise the fault of the first one that exists."""
    if not keys:
        return _caption(members, filters, "txt", "caption")
    first: BadSample | None = None
    for key in keys:
        try:
            return _caption(members, filters, key.lower(), key)  # the extensions of a sample are in lower case
        except BadSample as fault:
            if fault.reason != "missing-caption":
                first = first or fault
    raise first or BadSample("missing-caption", f"no member and no text in 'json' is one of {', '.join(keys)}")


def _caption(members: Mapping[str, bytes], filters: Filters, member: str, field: str) -> str:
    """Return the caption in a member, or in a field of ``json`` if the member is missing."""
    caption = (_text(members[member], member) if member in members else json_caption(members, field)).strip()
    if "\0" in caption:
        raise BadSample("nul-in-caption", "the caption holds NUL characters")
    if not is_visible(caption):
        raise BadSample("empty-caption", "the caption is empty or white space, or no character is visible")
    if len(caption) < filters.min_caption_chars:
        raise BadSample("caption-too-short", f"{len(caption)} characters; at least {filters.min_caption_chars}")
    if len(caption) > filters.max_caption_chars:
        raise BadSample("caption-too-long", f"{len(caption)} characters; at most {filters.max_caption_chars}")
    check_content(caption)
    return caption


def json_caption(members: Mapping[str, bytes], key: str = "caption") -> str:
    """Return the caption in a field of the member ``json``.

    Raises:
        BadSample: it is missing or not a text.
    """
    if "json" not in members:
        raise BadSample("missing-caption", "neither 'txt' nor 'json' is there")
    caption = json_fields(members["json"]).get(key)
    if not isinstance(caption, str):
        raise BadSample("missing-caption", f"there is no 'txt', and 'json' has no text in '{key}'")
    if not _encodable(caption):
        raise BadSample("invalid-utf8", f"'{key}' in 'json' holds half a surrogate pair")
    return caption


def _check_length(data: bytes, member: str) -> None:
    if len(data) > MAX_TEXT_BYTES:
        raise BadSample("text-too-large", f"'{member}' has {len(data):,} bytes; at most {MAX_TEXT_BYTES:,}")


def _text(data: bytes, member: str) -> str:
    _check_length(data, member)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadSample("invalid-utf8", f"'{member}' is not UTF-8 at byte {error.start}") from error


def json_fields(data: bytes) -> dict[str, Any]:
    """Return the fields of a member ``json``.

    Raises:
        BadSample: ``text-too-large`` or ``bad-json``.
    """
    _check_length(data, "json")
    try:
        fields = load_json(data)
    except ValueError as error:
        raise BadSample("bad-json", f"'json' cannot be read: {error}") from error
    if not isinstance(fields, dict):
        raise BadSample("bad-json", "'json' is not a mapping of fields")
    return fields


def _url(members: dict[str, bytes]) -> str | None:
    """Return the URL of the image, or None if it is missing or unreadable, which is not an error."""
    try:
        url = _text(members["url.txt"], "url.txt") if "url.txt" in members else json_fields(members["json"]).get("url")
    except (BadSample, KeyError):
        return None
    return url.strip() or None if isinstance(url, str) and _encodable(url) else None


def _encodable(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)
