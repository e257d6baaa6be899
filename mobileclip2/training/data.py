"""Sources of training samples: reinforced shards, raw shards, or features in memory.

Each sample is a pure function of (seed, epoch, index), so loader workers and restarts do not change it. Random choices
come from hashes and not from a random stream. The index of a source lies in a file, so memory does not grow with the
number of samples.
"""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from mobileclip2.config.augmentation import RELEASED_RENDERING, Augmentation, Rendering
from mobileclip2.data.augmentation import View, sample_view
from mobileclip2.data.bad_sample import BadSample
from mobileclip2.data.image import decode as decode_image
from mobileclip2.data.indexed_tar import IndexedTar
from mobileclip2.data.preprocess import Preprocess
from mobileclip2.data.reinforced_format import CAPTIONS, MEMBERS, ReinforcedSample, decode
from mobileclip2.data.row_file import FileArray, RowFile
from mobileclip2.data.validate import IMAGE_EXTENSIONS, check_image
from mobileclip2.errors import ShardError, UserError
from mobileclip2.training.published_shard import OpenPublishedShard, PublishedShard
from mobileclip2.training.views import render_view

Tokenize = Callable[[Sequence[str]], torch.Tensor]
"""Map texts to int64 ``[len(texts), context]``."""

KEYS = ("image", "text", "synthetic_text", "teacher_image", "teacher_text", "teacher_synthetic_text")
"""Keys of a reinforced sample."""

MIXED_SHARDS = 16
"""Number of shards that are shuffled together: enough to mix a batch, few enough to stay in the page cache."""

CACHED_BYTES = 1 << 26
"""Total size of tars up to which each process caches the decoded samples."""

CACHED_PIXELS = 1 << 26
"""Total pixels of all views, at the student's input size, up to which each process caches the rendered views."""

CACHED_TEXTS = 1 << 15
"""Number of texts whose tokens each process caches."""


class SampleSource(ABC):
    """Random access to the training samples of shards with the given ``sizes``."""

    def __init__(self, sizes: Sequence[int], *, seed: int, with_replacement: bool = False) -> None:
        self._starts, self._seed, self._with_replacement = np.cumsum([0, *sizes]), seed, with_replacement

    def __len__(self) -> int:
        return int(self._starts[-1])

    def locate(self, index: int) -> tuple[int, int]:
        """Return the shard of a sample and its row in the shard."""
        shard = int(np.searchsorted(self._starts, index, side="right")) - 1
        return shard, index - int(self._starts[shard])

    def order(self, epoch: int) -> Iterator[np.ndarray]:
        """Yield the sample indices of an epoch in chunks, int64 ``[n]``: shards in random order, mixed in groups.

        The order is a pure function of the seed and the epoch. Without replacement, each index is yielded once. With
        replacement, there are as many indices as samples.
        """
        random = np.random.default_rng((self._seed, epoch))
        count, left = len(self._starts) - 1, len(self)
        shards = random.permutation(count)
        while left:
            mixed, shards = shards[:MIXED_SHARDS], shards[MIXED_SHARDS:]
            if self._with_replacement:
                mixed = random.integers(count, size=MIXED_SHARDS)
            chunk = random.permutation(np.concatenate([np.arange(*self._starts[shard : shard + 2]) for shard in mixed]))
            yield chunk[:left]
            left -= len(chunk[:left])

    @abstractmethod
    def sample(self, epoch: int, index: int) -> dict[str, torch.Tensor]:
        """Return one sample, a pure function of the seed and the arguments, with some of :data:`KEYS`.

        ``image`` is uint8 ``[H, W, 3]`` or features, as :meth:`prepare` takes it. ``text`` and ``synthetic_text`` are
        int64 ``[L]``. ``teacher_*`` are fp32 ``[D]``, the concatenated embeddings of all teachers.
        """

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        """Convert a batch of ``image`` to the model's input, ``[b, ...]``, on its device.

        uint8 pixels are copied to the device before the conversion, because they are a quarter of the bytes. Features
        stay unchanged.
        """
        return images


class ReinforcedSource(SampleSource):
    """Samples of reinforced shards in both published layouts.

    A sample is a random stored view at the student's input size, the real caption, a random synthetic caption, and the
    stored embeddings of the three. The synthetic caption is chosen like in the released code: first a field of
    ``syn.json`` that matches the regular expression ``captions``, then a caption of this field.

    With ``augmentation``, the image is a new random view in each epoch, as in :class:`RawSource`. This needs samples
    without ``teacher_image``, because a stored embedding belongs to a stored view.

    ``needs`` are the keys of the returned samples. ``images`` are the source shards of a dataset without images, one
    for each path of ``shards``, which come before published shards.

    Raises:
        ShardError: a shard cannot be read. :meth:`sample` also raises it for a malformed sample or an image that
            differs from the reinforced one.
        UserError: ``captions`` does not match any field of a sample, or the images are missing.
    """

    def __init__(
        self,
        shards: Sequence[Path | PublishedShard],
        tokenize: Tokenize,
        preprocess: Preprocess,
        *,
        seed: int,
        captions: str = f"^{CAPTIONS}.*$",
        needs: Sequence[str] = KEYS,
        images: Sequence[Path] | None = None,
        augmentation: Augmentation | None = None,
        rendering: Rendering = RELEASED_RENDERING,
        with_replacement: bool = False,
    ) -> None:
        self.needs = tuple(needs)
        self._wants_synthetic = any("synthetic" in key for key in needs)
        if unknown := set(needs).difference(KEYS):
            raise UserError(f"training data: unknown keys {', '.join(sorted(unknown))}; the keys are {', '.join(KEYS)}")
        if augmentation and "teacher_image" in self.needs:
            raise UserError("training data: a stored embedding belongs to a stored view; remove 'augmentation'")
        self._preprocess, self._augmentation, self._rendering = preprocess, augmentation, rendering
        self._tokens = _TokenCache(tokenize)
        try:
            self._captions = re.compile(captions)
        except re.error as error:
            raise UserError(f"captions: '{captions}' is not a regular expression ({error})") from error
        file = RowFile()
        self._shards = [
            OpenPublishedShard(shard, file)
            if isinstance(shard, PublishedShard)
            else IndexedTar(shard, file, extensions=MEMBERS)
            for shard in shards
        ]
        super().__init__([len(shard) for shard in self._shards], seed=seed, with_replacement=with_replacement)
        self._image_shards: list[IndexedTar] | None = None
        if images is not None:
            tars = [shard for shard in self._shards if not isinstance(shard, OpenPublishedShard)]
            self._image_shards = [
                IndexedTar(path, file, tar.keys(), IMAGE_EXTENSIONS) for path, tar in zip(images, tars, strict=True)
            ]
        self._caches_samples = sum(shard.path.stat().st_size for shard in self._shards) <= CACHED_BYTES
        self._sample_cache: dict[tuple[int, int], ReinforcedSample] = {}
        self._view_cache: dict[tuple[int, int, int], torch.Tensor] = {}
        self.dim = self._check_first_sample() if len(self) else 0
        """Width of the concatenated embeddings of all teachers."""

    def sample(self, epoch: int, index: int) -> dict[str, torch.Tensor]:
        """Return one sample with the keys of ``needs``."""
        shard, row = self.locate(index)
        sample = self._read(shard, row)
        if sample.image_emb.shape[1] != self.dim:
            raise ShardError(
                f"{self._name(shard, sample)}: embeddings have {sample.image_emb.shape[1]} dimensions, but other samples "
                f"have {self.dim}; the shards belong to different datasets"
            )
        choose = partial(_choose, self._seed, epoch, sample.key)
        view = choose("view", len(sample.views))
        load: dict[str, Callable[[], torch.Tensor]] = {
            "image": lambda: self._image(shard, row, sample, epoch, view),
            "text": lambda: self._tokens(sample.caption),
            "teacher_image": lambda: sample.image_emb[view].float(),
            "teacher_text": lambda: sample.text_emb[0].float(),
        }
        if self._wants_synthetic:
            fields = self._fields(shard, sample)
            field = fields[choose("field", len(fields))]
            caption = choose("caption", len(sample.captions[field]))
            load["synthetic_text"] = lambda: self._tokens(sample.captions[field][caption])
            load["teacher_synthetic_text"] = lambda: sample.caption_embs[field][caption].float()
        return {key: load[key]() for key in self.needs}

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        """Normalize images for the student, ``[b, 3, size, size]``."""
        return self._preprocess.normalized(images)

    def _check_first_sample(self) -> int:
        """Check captions and image of the first sample before training starts, and return the embedding width."""
        shard, row = self.locate(0)
        sample = self._read(shard, row)
        if self._wants_synthetic:
            self._fields(shard, sample)
        if "image" in self.needs:
            self._image_bytes(shard, row, sample)
        return sample.image_emb.shape[1]

    def _read(self, shard: int, row: int) -> ReinforcedSample:
        if (shard, row) in self._sample_cache:
            return self._sample_cache[shard, row]
        tar = self._shards[shard]
        sample = decode(tar.members(row, *MEMBERS), tar.key(row), str(tar.path))
        if self._caches_samples:
            self._sample_cache[shard, row] = sample
        return sample

    def _name(self, shard: int, sample: ReinforcedSample) -> str:
        return f"{self._shards[shard].path}: sample '{sample.key}'"

    def _fields(self, shard: int, sample: ReinforcedSample) -> list[str]:
        fields = [field for field, texts in sample.captions.items() if texts and self._captions.match(field)]
        if not fields:
            counts = ", ".join(f"'{field}' ({len(texts)})" for field, texts in sample.captions.items()) or "none"
            raise UserError(
                f"{self._name(shard, sample)}: no synthetic caption matches '{self._captions.pattern}'; it has {counts}. "
                "Check the captioners in the loss of the student"
            )
        return fields

    def _image(self, shard: int, row: int, sample: ReinforcedSample, epoch: int, view: int) -> torch.Tensor:
        cached = self._view_cache.get((shard, row, view))
        if cached is not None:
            return cached
        name = self._name(shard, sample)
        image = _decode_valid(self._image_bytes(shard, row, sample), name)
        if self._augmentation:
            own = sample_view(self._augmentation, self._seed, sample.key, epoch, *image.size)
            return _rendered(image, own, self._preprocess, self._rendering)
        try:
            rendered = _rendered(image, sample.views[view], self._preprocess, self._rendering)
        except ShardError as error:
            raise ShardError(f"{name}: {error}") from error
        if len(self) * len(sample.views) * self._preprocess.size**2 <= CACHED_PIXELS:
            self._view_cache[shard, row, view] = rendered
        return rendered

    def _image_bytes(self, shard: int, row: int, sample: ReinforcedSample) -> bytes:
        if sample.image is not None:
            return sample.image
        name = self._name(shard, sample)
        if self._image_shards is None:
            raise UserError(f"{name}: has no image; the dataset was built without images, so pass the source shards")
        source = self._image_shards[shard]
        members = source.members(row, *IMAGE_EXTENSIONS)
        image = next((members[extension] for extension in IMAGE_EXTENSIONS if extension in members), b"")
        expected = sample.rest.get("image_sha256")
        if expected is not None and hashlib.sha256(image).hexdigest() != expected:
            raise ShardError(
                f"{name}: the image in {source.path} differs from the reinforced image; reinforce the shard again"
            )
        return image


class RawSource(SampleSource):
    """Image-text pairs of raw shards.

    Each epoch renders view number ``epoch`` of every image. Without ``augmentation`` images are resized and cropped as
    in evaluation.

    ``shards`` are tars with the tables of their valid samples, schema :data:`mobileclip2.data.validate.KEPT`. Each table
    is read once.

    Raises:
        ShardError: a shard cannot be read or lacks a sample of its table. :meth:`sample` also raises it for an image
            that cannot be decoded or has changed since its validation.
    """

    def __init__(
        self,
        shards: Iterable[tuple[Path, pa.Table]],
        tokenize: Tokenize,
        preprocess: Preprocess,
        *,
        seed: int,
        augmentation: Augmentation | None = None,
        rendering: Rendering = RELEASED_RENDERING,
        with_replacement: bool = False,
    ) -> None:
        self._preprocess, self._augmentation, self._rendering = preprocess, augmentation, rendering
        self._tokens = _TokenCache(tokenize)
        self._file = RowFile()
        self._shards = [_RawShard(path, table, self._file) for path, table in shards]
        super().__init__([len(shard) for shard in self._shards], seed=seed, with_replacement=with_replacement)

    def sample(self, epoch: int, index: int) -> dict[str, torch.Tensor]:
        """Return one sample with its image and text."""
        shard, row = self.locate(index)
        key, caption, data = self._shards[shard].sample(row)
        image = _decode_valid(data, f"{self._shards[shard].path}: sample '{key}'")
        return {"image": self._view(image, key, epoch), "text": self._tokens(caption)}

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        """Normalize images for the model, ``[b, 3, size, size]``."""
        return self._preprocess.normalized(images)

    def _view(self, image: Image.Image, key: str, epoch: int) -> torch.Tensor:
        if self._augmentation is None:
            return self._preprocess.pixels(self._preprocess.center(image))
        view = sample_view(self._augmentation, self._seed, key, epoch, *image.size)
        return _rendered(image, view, self._preprocess, self._rendering)


class FeatureSource(SampleSource):
    """Pairs of model inputs in memory, such as the features of frozen towers.

    A tensor ``[n, ...]`` has one row per sample. A list of n tensors ``[choices, ...]`` has several rows per sample, and
    each epoch chooses one of them.
    """

    def __init__(
        self, images: torch.Tensor | Sequence[torch.Tensor], texts: torch.Tensor | Sequence[torch.Tensor], *, seed: int
    ) -> None:
        if len(images) != len(texts):
            raise ValueError(f"{len(images)} images for {len(texts)} texts")
        super().__init__([len(images)], seed=seed)
        self._columns = {"image": images, "text": texts}

    def sample(self, epoch: int, index: int) -> dict[str, torch.Tensor]:
        """Return one sample with all its columns."""
        return {key: self._row(key, epoch, index) for key in self._columns}

    def _row(self, key: str, epoch: int, index: int) -> torch.Tensor:
        column = self._columns[key]
        if isinstance(column, torch.Tensor):
            return column[index]
        return column[index][_choose(self._seed, epoch, str(index), key, len(column[index]))]


class _RawShard(IndexedTar):
    """The valid samples of a tar, by their row in its table."""

    _KIND = np.dtype([("caption", np.int64, 2), ("image", "S8"), ("sha256", "S64")])

    def __init__(self, path: Path, table: pa.Table, file: RowFile) -> None:
        super().__init__(path, file, table.column("key").to_pylist(), IMAGE_EXTENSIONS)
        captions = [caption.encode() for caption in table.column("caption").to_pylist()]
        rows = np.zeros(len(captions), self._KIND)
        rows["image"] = table.column("image").to_pylist()
        rows["sha256"] = table.column("sha256").to_pylist()
        sizes = np.array([len(caption) for caption in captions], np.int64)
        rows["caption"][:, 0] = file.append(b"".join(captions)) + np.cumsum(sizes) - sizes
        rows["caption"][:, 1] = sizes
        self._file, self._validated = file, FileArray(rows, file)

    def sample(self, row: int) -> tuple[str, str, bytes]:
        """Return the key, the caption and the image file, which has the hash of its validation."""
        fields = self._validated[row]
        extension = fields["image"].decode()
        key, image = self.key(row), self.members(row, extension).get(extension, b"")
        check_image(image, {"key": key, "image": extension, "sha256": fields["sha256"].decode()}, str(self.path))
        return key, self._file.read(*fields["caption"].tolist()).decode(), image


class _TokenCache:
    """Tokens ``[L]`` of a text. Each process caches the tokens of recent texts."""

    def __init__(self, tokenize: Tokenize) -> None:
        self._tokenize = tokenize
        self._cached = lru_cache(CACHED_TEXTS)(lambda text: tokenize([text])[0])

    def __call__(self, text: str) -> torch.Tensor:
        return self._cached(text)

    def __reduce__(self) -> tuple[Any, ...]:
        return _TokenCache, (self._tokenize,)


def _rendered(image: Image.Image, view: View, preprocess: Preprocess, rendering: Rendering) -> torch.Tensor:
    interpolation = rendering.interpolation_of(preprocess.interpolation)
    return render_view(image, view, preprocess.size, interpolation, rendering.translation)


def _decode_valid(data: bytes, name: str) -> Image.Image:
    try:
        return decode_image(data)
    except BadSample as error:
        raise ShardError(f"{name}: {error}; the shard changed after validation, download it again") from error


def _choose(seed: int, epoch: int, key: str, purpose: str, count: int) -> int:
    """Choose a number below ``count`` by hash."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{purpose}/{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % count
