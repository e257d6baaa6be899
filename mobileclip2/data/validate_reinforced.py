"""Validate the samples of published reinforced shards, with images in the shards or joined by key from other shards."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import pyarrow as pa
import torch

from mobileclip2.config.filters import Filters
from mobileclip2.data.bad_sample import BadSample
from mobileclip2.data.join import NORM_TOLERANCE
from mobileclip2.data.reinforced_format import MEMBERS, ReinforcedSample, parse
from mobileclip2.data.sidecar import required
from mobileclip2.data.tar import RawSample
from mobileclip2.data.validate import IMAGE_EXTENSIONS, SKIPPED, image_extension, json_caption, validate
from mobileclip2.errors import ShardError

VALID = pa.schema(
    [
        *required(key=pa.string()),
        pa.field("image_key", pa.string()),
        pa.field("image_shard", pa.string()),
        *required(sha256=pa.string(), dims=pa.list_(pa.int32()), views=pa.int32(), captions=pa.string()),
    ]
)
"""schema of valid samples in the order of the shard

``image_key`` and ``image_shard`` say where the image is if another shard holds it. ``sha256`` is :func:`digest` of the
members. ``dims`` are the teachers' dimensions. ``captions`` is JSON: the number of synthetic captions by field.
"""


class ImageSample(NamedTuple):
    """The sample of an image shard that belongs to a reinforced sample."""

    shard: str
    key: str
    members: dict[str, bytes]


IMAGE_MEMBERS = (*IMAGE_EXTENSIONS, "txt", "json")
"""members of an image shard that a reinforced sample can take"""

FindImage = Callable[[str], ImageSample | None]
"""returns the sample of an image shard by the key of a reinforced sample"""


def validate_reinforced(
    samples: Iterable[RawSample],
    teachers: Mapping[str, int | None],
    filters: Filters,
    shard: str,
    find_image: FindImage | None = None,
) -> tuple[pa.Table, pa.Table]:
    """Decode every sample. Return the tables of valid samples, schema :data:`VALID`, and of skipped samples.

    Reasons in addition to those of :func:`mobileclip2.data.validate.validate_shard`: ``bad-reinforcement``,
    ``bad-embedding``, ``bad-view``, ``changed-image``, ``missing-synthetic-caption``.

    Args:
        teachers: dimensions of the teachers in the order of their embeddings, None where the shard states them.
        find_image: finds images and captions that the shard does not hold.

    Raises:
        ShardError: the embeddings are not those of ``teachers``.
    """
    rows: list[dict[str, Any]] = []
    skipped: list[dict[str, str]] = []
    for sample in samples:
        try:
            rows.append(_validate(sample, teachers, filters, shard, find_image))
        except BadSample as bad:
            skipped.append({"key": sample.key, "reason": bad.reason, "detail": bad.detail})
    return pa.Table.from_pylist(rows, VALID), pa.Table.from_pylist(skipped, SKIPPED)


def complete(members: Mapping[str, bytes], image: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the members that a reader of the format uses, with image and caption of an image shard if they are missing.

    A caption in ``json`` counts if there is no ``txt``.
    """
    found = {name: members[name] for name in MEMBERS if name in members}
    if not image_extension(found):
        found |= {name: image[name] for name in IMAGE_EXTENSIONS if name in image}
    for source in (members, image):
        if "txt" in source:
            found.setdefault("txt", source["txt"])
        if "txt" not in found:
            with suppress(BadSample):
                found["txt"] = json_caption(source).encode()
    return found


def digest(members: Mapping[str, bytes]) -> str:
    """Return the sha256 of members with their names."""
    found = hashlib.sha256()
    for name in sorted(members):
        found.update(f"{name}\0{len(members[name])}\0".encode())
        found.update(members[name])
    return found.hexdigest()


def _validate(
    raw: RawSample,
    teachers: Mapping[str, int | None],
    filters: Filters,
    shard: str,
    find_image: FindImage | None,
) -> dict[str, Any]:
    if raw.fault:
        raise raw.fault
    members = complete(raw.members, {})
    image = None
    if find_image and not (image_extension(members) and "txt" in members):
        image = find_image(raw.key)
        members = complete(raw.members, image.members if image else {})
    if not image_extension(members):
        where = "the image shards have no image of this key" if find_image else "name shards with images in 'images'"
        raise BadSample("missing-image", f"the shard holds no image, and {where}")
    row = validate(RawSample(raw.key, members), filters)
    try:
        sample = parse(members, raw.key)
    except ValueError as error:
        raise BadSample("bad-reinforcement", str(error)) from error
    dims = _teacher_dims(sample, teachers, shard)
    _check_lengths(sample, dict(zip(teachers, dims, strict=True)))
    for number, view in enumerate(sample.views):
        try:
            view.check_inside(row["width"], row["height"])
        except ValueError as error:
            raise BadSample("bad-view", f"view {number}: {error}, which was resized or replaced") from error
    expected = sample.rest.get("image_sha256")
    if expected is not None and row["sha256"] != expected:
        raise BadSample("changed-image", f"the image has sha256 {row['sha256']}, and 'json' has {expected}")
    captions = {name: len(texts) for name, texts in sample.captions.items() if texts}
    if not captions:
        raise BadSample("missing-synthetic-caption", "syn.json has no caption")
    return {
        "key": raw.key,
        "image_key": image.key if image else None,
        "image_shard": image.shard if image else None,
        "sha256": digest(members),
        "dims": dims,
        "views": len(sample.views),
        "captions": json.dumps(captions),
    }


def _teacher_dims(sample: ReinforcedSample, teachers: Mapping[str, int | None], shard: str) -> list[int]:
    """Return the dimensions of the teachers as the sample states them, or as the profile does."""
    width = sample.image_emb.shape[1]

    def refuse(message: str) -> ShardError:
        return ShardError(
            f"{shard}: sample '{sample.key}': {message}; correct 'teachers' of the dataset in the profile"
        )

    stated = sample.rest.get("teachers")
    dims = list(teachers.values())
    if isinstance(stated, list) and all(isinstance(each, dict) and {"name", "dim"} <= each.keys() for each in stated):
        found = {str(each["name"]): each["dim"] for each in stated}
        listed = ", ".join(f"{name} ({dim})" for name, dim in found.items())
        if list(found) != list(teachers):
            raise refuse(f"its teachers are {listed}, not {', '.join(teachers)}")
        if any(type(dim) is not int or dim < 1 for dim in found.values()):
            raise refuse(f"its teachers are {listed}, and each needs a dimension of at least 1")
        if any(dim not in (None, found[name]) for name, dim in teachers.items()):
            raise refuse(f"its teachers are {listed}, and the profile states {dims}")
        dims = list(found.values())
    elif len(dims) == 1 and dims[0] is None:
        dims = [width]
    known = [dim for dim in dims if isinstance(dim, int)]
    if len(known) < len(dims):
        raise refuse(f"its embeddings have {width} numbers, and it does not say how many each teacher has; state 'dim'")
    if sum(known) != width:
        raise refuse(f"its embeddings have {width} numbers, and the dimensions {known} add up to {sum(known)}")
    return known


def _check_lengths(sample: ReinforcedSample, dims: Mapping[str, int]) -> None:
    """Check that the embedding of each teacher has the length 1. With wrong dimensions, it has not."""
    fields = {"image_emb": sample.image_emb, "text_emb": sample.text_emb}
    fields |= {f"{name}_emb": rows for name, rows in sample.caption_embs.items()}
    for field, rows in fields.items():
        parts = rows.float().split(list(dims.values()), dim=1)
        for (name, dim), part in zip(dims.items(), parts, strict=True):
            lengths = torch.linalg.vector_norm(part, dim=1)
            if not ((lengths - 1).abs() <= NORM_TOLERANCE).all():
                worst = lengths[(lengths - 1).abs().argmax()].item()
                raise BadSample(
                    "bad-embedding",
                    f"'{field}': an embedding of '{name}' ({dim} numbers) has the length {worst:.3g}, not 1; "
                    "check the order and 'dim' of the teachers",
                )


def teachers_of(dims: Sequence[Sequence[int]], names: Sequence[str]) -> dict[str, int] | None:
    """Return the one mapping of teachers to dimensions in the column ``dims``, or None if it is empty.

    Raises:
        ValueError: two samples differ.
    """
    found = sorted({tuple(each) for each in dims})
    if len(found) > 1:
        raise ValueError(f"the embeddings have the dimensions {' and '.join(str(list(each)) for each in found)}")
    return dict(zip(names, found[0], strict=True)) if found else None
