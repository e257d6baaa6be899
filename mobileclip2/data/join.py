"""Join a shard with its views, captions and embeddings by sample key."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import torch

from mobileclip2.data import sidecar
from mobileclip2.data.augmentation import View
from mobileclip2.data.bad_sample import BadSample
from mobileclip2.data.image import opaque_copy
from mobileclip2.data.reinforced_format import CAPTIONS, ReinforcedSample, Storage, encode
from mobileclip2.data.tar import TarWriter
from mobileclip2.data.validate import KEPT, SKIPPED, check_image, iter_valid, json_fields
from mobileclip2.errors import DamagedOutput

NORM_TOLERANCE = 0.02
"""maximum deviation of the norm of a stored embedding from 1; rounding to bf16 changes it by less than 0.004"""


@dataclass(frozen=True)
class TeacherFiles:
    """Sidecars with the embeddings of one teacher for a shard."""

    name: str
    image: Sequence[Path]
    """a file for each view"""
    text: Path
    """the file of the real captions"""
    captions: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    """by captioner, a file for each of its captions"""


def join_shard(
    source: BinaryIO,
    raw: Path,
    views: Sequence[Path],
    captions: Mapping[str, Sequence[Path]],
    teachers: Sequence[TeacherFiles],
    out: Path,
    *,
    storage: Storage = "pth.gz",
    images: bool = True,
) -> tuple[int, pa.Table]:
    """Write the reinforced shard ``out`` of the tar ``source``. The sidecar ``raw`` lists its samples.

    Return the number of written samples and the table of skipped ones, schema :data:`SKIPPED`. Reasons: ``missing-view``,
    ``bad-view``, ``missing-caption``, ``missing-embedding``, ``bad-embedding``, and those of
    :func:`mobileclip2.data.image.decode`.

    ``views`` has a sidecar for each view, ``captions`` for each caption of each captioner. An embedding is the
    concatenation of the teachers' embeddings in the order of ``teachers``. The ``json`` of each sample has their names
    and dimensions. Without ``images``, readers get the images from the source by key.

    An empty caption is dropped with its embedding. If all captions of a captioner are empty, the real caption and its
    embedding replace them, because readers of the published format need a caption of each captioner.

    An image that other readers decode to other pixels, because it is transparent or has 16-bit gray, is stored as an
    opaque PNG. Other images keep their bytes.

    Memory holds one image and one row group of embeddings per sidecar, for any size of the shard.

    Raises:
        DamagedOutput: a sidecar is missing or malformed, has a key twice, or belongs to another shard.
        ShardError: the source cannot be read or has changed since validation.
        StoreError: the disk is full or cannot be written.
        ValueError: two teachers have the same name, there is no view, or a teacher lacks a sidecar.
    """
    _check_arguments(views, captions, teachers)
    rows = {row["key"]: row for row in _unique(raw, sidecar.read(raw, KEPT).to_pylist())}
    skipped: list[dict[str, str]] = []
    with ExitStack() as stack:
        join = _Join(
            rows,
            [_Texts(path, sidecar.VIEWS, rows) for path in views],
            {name: [_Texts(path, sidecar.CAPTIONS, rows) for path in paths] for name, paths in captions.items()},
            [_Teacher(teacher, rows, stack) for teacher in teachers],
        )
        dims = {teacher.name: teacher.dim for teacher in join.teachers}
        writer = stack.enter_context(TarWriter(out))
        for key, members in iter_valid(source, source.name, rows):
            image = check_image(members.get(rows[key]["image"], b""), rows[key], source.name)
            try:
                copy = opaque_copy(image) if images else None
                sample = join.sample(key)
            except BadSample as bad:
                skipped.append({"key": key, "reason": bad.reason, "detail": bad.detail})
                continue
            sample.image, sha256 = image if images else None, rows[key]["sha256"]
            if copy:
                sample.image, sample.extension, sha256 = copy, "png", hashlib.sha256(copy).hexdigest()
            sample.rest = _rest(members, sha256, dims)
            writer.write(key, encode(sample, storage))
    return len(rows) - len(skipped), pa.Table.from_pylist(skipped, SKIPPED)


@dataclass
class _Join:
    rows: dict[str, dict[str, Any]]
    views: list[_Texts]
    captions: dict[str, list[_Texts]]
    teachers: list[_Teacher]

    def sample(self, key: str) -> ReinforcedSample:
        """Join a sample without its image.

        Raises:
            BadSample: a view, caption or embedding is missing or invalid.
        """
        row = self.rows[key]
        views = [self._view(file, row) for file in self.views]
        image_emb = self._embeddings([[teacher.image[n] for teacher in self.teachers] for n in range(len(views))], key)
        text_emb = self._embeddings([[teacher.text for teacher in self.teachers]], key)
        captions, caption_embs = {}, {}
        for name, files in self.captions.items():
            field_name = f"{CAPTIONS}_{name}"
            texts = [file.of(key, "missing-caption") for file in files]
            written = [number for number, text in enumerate(texts) if text.strip()]
            embedded = [[teacher.captions[name][number] for teacher in self.teachers] for number in written]
            captions[field_name] = [texts[number] for number in written] or [row["caption"]]
            caption_embs[field_name] = self._embeddings(embedded, key) if written else text_emb
        return ReinforcedSample(
            key,
            row["caption"],
            views,
            captions,
            image_emb,
            text_emb,
            caption_embs,
            extension=row["image"],
            url=row["url"],
        )

    def _view(self, file: _Texts, row: dict[str, Any]) -> View:
        text = file.of(row["key"], "missing-view")
        try:
            view = View.from_json(text)
            view.check_inside(row["width"], row["height"])
        except ValueError as error:
            raise BadSample("bad-view", f"{file.path.name}: {error}") from error
        return view

    def _embeddings(self, files: list[list[_Embeddings]], key: str) -> torch.Tensor:
        """Return bf16 embeddings ``[len(files), D]``. Each row concatenates the teachers."""
        bits = np.concatenate([file.of(key) for of_row in files for file in of_row])
        return sidecar.from_bits(bits.reshape(len(files), -1))


class _Texts:
    """A sidecar of views or captions by key."""

    def __init__(self, path: Path, schema: pa.Schema, known: Iterable[str]) -> None:
        self.path = path
        _, value = schema.names
        rows = _unique(path, sidecar.read(path, schema).to_pylist(), known)
        self._values: dict[str, str] = {row["key"]: row[value] for row in rows}

    def of(self, key: str, missing: str) -> str:
        if key not in self._values:
            raise BadSample(missing, f"{self.path.name} has no row for it")
        return self._values[key]


class _Embeddings:
    """A sidecar of embeddings by key."""

    def __init__(self, path: Path, teacher: str, what: str, known: Iterable[str], stack: ExitStack) -> None:
        self._file = stack.enter_context(sidecar.Embeddings(path))
        self._what = f"teacher '{teacher}', {what}"
        self._row = {key: row for row, key in enumerate(_unique(path, self._file.keys, known))}
        self.path, self.dim = path, self._file.dim

    def of(self, key: str) -> np.ndarray:
        """Return the bf16 bits of an embedding, ``[D]``."""
        row = self._row.get(key)
        if row is None:
            raise BadSample("missing-embedding", f"{self._what}: the side file has no row for it")
        bits, length = self._file[row]
        if not abs(length - 1) <= NORM_TOLERANCE:
            raise BadSample("bad-embedding", f"{self._what}: its length is {length:.3g}, not 1")
        return bits


class _Teacher:
    def __init__(self, files: TeacherFiles, known: Iterable[str], stack: ExitStack) -> None:
        def open_file(path: Path, what: str) -> _Embeddings:
            return _Embeddings(path, files.name, what, known, stack)

        self.name = files.name
        self.text = open_file(files.text, "caption")
        self.dim = self.text.dim
        self.image = [open_file(path, f"view {number}") for number, path in enumerate(files.image)]
        self.captions = {
            name: [open_file(path, f"caption {number} of '{name}'") for number, path in enumerate(paths)]
            for name, paths in files.captions.items()
        }
        for other in [*self.image, *(file for opened in self.captions.values() for file in opened)]:
            if other.dim != self.dim:
                raise DamagedOutput(
                    f"{other.path}: embeddings have {other.dim} numbers, but {self.dim} in {self.text.path}; "
                    f"delete all embeddings of teacher '{self.name}' and run again"
                )


def _check_arguments(
    views: Sequence[Path], captions: Mapping[str, Sequence[Path]], teachers: Sequence[TeacherFiles]
) -> None:
    names = [teacher.name for teacher in teachers]
    if not views or not names or len(set(names)) < len(names):
        raise ValueError(
            f"need a view, a teacher and unique teacher names, got {len(views)} views and teachers {names}"
        )
    expected = {name: len(paths) for name, paths in captions.items()}
    for teacher in teachers:
        found = {name: len(paths) for name, paths in teacher.captions.items()}
        if len(teacher.image) != len(views) or found != expected:
            raise ValueError(
                f"teacher '{teacher.name}' has embeddings of {len(teacher.image)} views and captions {found}; "
                f"there are {len(views)} views and captions {expected}"
            )


def _unique(path: Path, rows: list[Any], known: Iterable[str] | None = None) -> list[Any]:
    """Check that keys are unique and belong to the shard, whose keys are ``known``. Return the rows."""
    keys = [row if isinstance(row, str) else row["key"] for row in rows]
    if len(set(keys)) < len(keys):
        duplicate = next(key for key, number in Counter(keys).items() if number > 1)
        raise DamagedOutput(f"{path}: sample '{duplicate}' occurs twice; delete the file and run its stage again")
    if known is not None and (unknown := set(keys).difference(known)):
        raise DamagedOutput(
            f"{path}: sample '{min(unknown)}' and {len(unknown) - 1} more are not in the shard. The file belongs to "
            "another shard or another version of this shard; run its stage again"
        )
    return rows


def _rest(members: dict[str, bytes], sha256: str, dims: dict[str, int]) -> dict[str, Any]:
    """Return the content of ``json``: the fields of the source, the hash of the image, and the teachers."""
    try:
        fields = json_fields(members.get("json", b"{}"))
    except BadSample:
        fields = {}
    return {**fields, "image_sha256": sha256, "teachers": [{"name": name, "dim": dim} for name, dim in dims.items()]}
