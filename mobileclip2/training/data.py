"""Where training samples come from: reinforced shards, raw shards, or features in memory.

A source is random access: any sample of any epoch is a pure function of (seed, epoch, index), so that neither the
number of loader workers nor a restart can change what training sees. What is random about a sample is a hash, never the
next number of a stream. What a source knows of each sample lies in a file, so that its memory does not grow with them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from mobileclip2.config.augmentation import Augmentation
from mobileclip2.data import image as pictures
from mobileclip2.data.augmentation import View, sample_view
from mobileclip2.data.bad_sample import BadSample
from mobileclip2.data.indexed_tar import IndexedTar
from mobileclip2.data.preprocess import Preprocess
from mobileclip2.data.reinforced_format import CAPTIONS, MEMBERS, ReinforcedSample, decode
from mobileclip2.data.row_file import RowFile, Rows
from mobileclip2.data.validate import IMAGE_EXTENSIONS
from mobileclip2.errors import ShardError, UserError
from mobileclip2.training.views import draw

Tokenize = Callable[[Sequence[str]], torch.Tensor]
"""texts -> int64 ``[len(texts), context]``"""

KEYS = ("image", "text", "synthetic_text", "teacher_image", "teacher_text", "teacher_synthetic_text")
"""what a reinforced sample has to offer"""

MIXED_SHARDS = 16
"""Shards whose samples are in one mixture: enough to mix a batch, few enough to stay in the page cache."""

REMEMBERED_BYTES = 1 << 26
"""A dataset whose tars have at most so many bytes in all is unpacked once a process, not once an epoch."""

REMEMBERED_PIXELS = 1 << 26
"""Stored views of a dataset that have at most so many pixels in all at the student's size are drawn once a process."""

REMEMBERED_TEXTS = 1 << 15
"""distinct texts whose tokens a process keeps"""


class SampleSource(Protocol):
    """Random access to training samples."""

    def __len__(self) -> int:
        """Return the number of samples of an epoch."""

    def order(self, epoch: int) -> Iterator[np.ndarray]:
        """Yield the indices of an epoch's samples in the order to be seen, int64, some at a time.

        The order is a pure function of the seed and the epoch.
        """

    def sample(self, epoch: int, index: int) -> dict[str, torch.Tensor]:
        """Return one sample. It is a pure function of the seed and the arguments, and its keys are some of :data:`KEYS`.

        ``image`` as :meth:`prepare` takes it, of pictures uint8 ``[H, W, 3]``; ``text`` and ``synthetic_text [L]``
        int64, ``teacher_*`` fp32 ``[D]``, the embeddings of all teachers side by side.
        """

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        """Return what the model takes of the ``image`` of some samples, ``[b, ...]``, on their device.

        Pixels travel to the device as they are, a quarter of the bytes of what is made of them there.
        """


class ReinforcedSource:
    """Samples of reinforced shards in either published layout.

    One seen sample is a stored view, drawn at random and rendered at the student's own input size, the real caption,
    a synthetic caption, and the stored embeddings of the three. The synthetic caption is drawn as the released code
    draws it: first one of the fields of ``syn.json`` that the expression ``captions`` matches from their start, then
    one of its captions.

    ``needs`` are the keys that training will look at; others are not made. ``images`` are the source shards of a
    dataset that was made without images, one for each of ``shards``.

    Raises:
        ShardError: a shard cannot be read, or, in :meth:`sample`, a sample is malformed or has another image than
            the one that its views were made for. Names shard, sample and member.
        UserError: ``captions`` matches none of a sample's fields, or the images are missing.
    """

    def __init__(
        self,
        shards: Sequence[Path],
        tokenize: Tokenize,
        preprocess: Preprocess,
        *,
        seed: int,
        captions: str = f"^{CAPTIONS}.*$",
        needs: Sequence[str] = KEYS,
        images: Sequence[Path] | None = None,
    ) -> None:
        self.needs = tuple(needs)
        if unknown := set(needs).difference(KEYS):
            raise UserError(f"training data: no sample has {', '.join(sorted(unknown))}; there are {', '.join(KEYS)}")
        self._preprocess, self._seed = preprocess, seed
        self._tokens = _Tokens(tokenize)
        self._captions = _expression(captions)
        file = RowFile()
        self._shards = [IndexedTar(path, file) for path in shards]
        self._elsewhere: list[IndexedTar] | None = None
        if images is not None:
            pairs = zip(images, self._shards, strict=True)
            self._elsewhere = [IndexedTar(path, file, shard.keys()) for path, shard in pairs]
        self._places = _Places([len(shard) for shard in self._shards])
        self._small = sum(path.stat().st_size for path in shards) <= REMEMBERED_BYTES
        self._remembered: dict[tuple[int, int], ReinforcedSample] = {}
        self._drawn: dict[tuple[int, int, int], torch.Tensor] = {}
        self.dim = self._expect_usable() if len(self._places) else 0
        """numbers in an embedding, of all teachers together"""

    def __len__(self) -> int:
        return len(self._places)

    def order(self, epoch: int) -> Iterator[np.ndarray]:
        """Yield the indices of an epoch's samples in the order to be seen, mixed across shards."""
        return self._places.mixed(self._seed, epoch)

    def sample(self, epoch: int, index: int) -> dict[str, torch.Tensor]:
        """Return one sample with the keys of ``needs``."""
        shard, number = self._places[index]
        sample = self._read(shard, number)
        if sample.image_emb.shape[1] != self.dim:
            found = f"embeddings of {sample.image_emb.shape[1]} numbers, other samples have {self.dim}"
            raise ShardError(f"{self._name(shard, sample)}: {found}; the shards belong to different datasets")
        choose = partial(_choose, self._seed, epoch, sample.key)
        view = choose("view", len(sample.views))
        made: dict[str, Callable[[], torch.Tensor]] = {
            "image": lambda: self._image(shard, number, sample, view),
            "text": lambda: self._tokens(sample.caption),
            "teacher_image": lambda: sample.image_emb[view].float(),
            "teacher_text": lambda: sample.text_emb[0].float(),
        }
        if self._wants_synthetic:
            fields = self._fields(shard, sample)
            field = fields[choose("field", len(fields))]
            caption = choose("caption", len(sample.captions[field]))
            made["synthetic_text"] = lambda: self._tokens(sample.captions[field][caption])
            made["teacher_synthetic_text"] = lambda: sample.caption_embs[field][caption].float()
        return {key: made[key]() for key in self.needs}

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        """Normalize images as the student was defined, ``[b, 3, size, size]``."""
        return self._preprocess.normalized(images)

    @property
    def _wants_synthetic(self) -> bool:
        return any("synthetic" in key for key in self.needs)

    def _expect_usable(self) -> int:
        """Check the first sample, so that a wrong expression or a missing folder fails before any work."""
        shard, number = self._places[0]
        sample = self._read(shard, number)
        if self._wants_synthetic:
            self._fields(shard, sample)
        if "image" in self.needs:
            self._picture(shard, number, sample)
        return sample.image_emb.shape[1]

    def _read(self, shard: int, number: int) -> ReinforcedSample:
        if (shard, number) in self._remembered:
            return self._remembered[shard, number]
        tar = self._shards[shard]
        sample = decode(tar.members(number, *MEMBERS), tar.key(number), str(tar.path))
        if self._small:
            self._remembered[shard, number] = sample
        return sample

    def _name(self, shard: int, sample: ReinforcedSample) -> str:
        return f"{self._shards[shard].path}: sample '{sample.key}'"

    def _fields(self, shard: int, sample: ReinforcedSample) -> list[str]:
        fields = [field for field, texts in sample.captions.items() if texts and self._captions.match(field)]
        if not fields:
            has = ", ".join(f"'{field}' ({len(texts)})" for field, texts in sample.captions.items()) or "none"
            raise UserError(
                f"{self._name(shard, sample)}: no synthetic caption matches '{self._captions.pattern}'; it has {has}. "
                "Check the captioners that the student is to learn from"
            )
        return fields

    def _image(self, shard: int, number: int, sample: ReinforcedSample, view: int) -> torch.Tensor:
        place = (shard, number, view)
        drawn = self._drawn.get(place)
        if drawn is None:
            drawn = self._draw(shard, number, sample, sample.views[view])
            if len(self._places) * len(sample.views) * self._preprocess.size**2 <= REMEMBERED_PIXELS:
                self._drawn[place] = drawn
        return drawn

    def _draw(self, shard: int, number: int, sample: ReinforcedSample, view: View) -> torch.Tensor:
        name = self._name(shard, sample)
        image = _decoded(self._picture(shard, number, sample), name)
        try:
            return draw(image, view, self._preprocess.size, self._preprocess.interpolation)
        except ShardError as error:
            raise ShardError(f"{name}: {error}") from error

    def _picture(self, shard: int, number: int, sample: ReinforcedSample) -> bytes:
        if sample.image is not None:
            return sample.image
        name = self._name(shard, sample)
        if self._elsewhere is None:
            raise UserError(f"{name}: has no image; the dataset was made without, so give the source shards as well")
        source = self._elsewhere[shard]
        members = source.members(number, *IMAGE_EXTENSIONS)
        image = next((members[extension] for extension in IMAGE_EXTENSIONS if extension in members), b"")
        expected = sample.rest.get("image_sha256")
        if expected is not None and hashlib.sha256(image).hexdigest() != expected:
            raise ShardError(
                f"{name}: {source.path} has another image than the one that was reinforced; reinforce the shard again"
            )
        return image


class RawSource:
    """Plain image-text pairs: the samples in the side files of raw shards.

    Each epoch draws a new view of every image, number ``epoch`` of its views under ``seed``; without ``augmentation``
    the whole image is seen, as in evaluation.

    ``shards`` are tars with the tables of their kept samples, schema :data:`mobileclip2.data.validate.KEPT`. Each table is
    looked at once.

    Raises:
        ShardError: a shard cannot be read or lacks a sample that was kept, or, in :meth:`sample`, an image cannot be
            decoded any more.
    """

    def __init__(
        self,
        shards: Iterable[tuple[Path, pa.Table]],
        tokenize: Tokenize,
        preprocess: Preprocess,
        *,
        seed: int,
        augmentation: Augmentation | None = None,
    ) -> None:
        self._preprocess, self._seed, self._augmentation = preprocess, seed, augmentation
        self._tokens = _Tokens(tokenize)
        self._file = RowFile()
        self._shards = [_RawShard(path, table, self._file) for path, table in shards]
        self._places = _Places([len(shard) for shard in self._shards])

    def __len__(self) -> int:
        return len(self._places)

    def order(self, epoch: int) -> Iterator[np.ndarray]:
        """Yield the indices of an epoch's samples in the order to be seen, mixed across shards."""
        return self._places.mixed(self._seed, epoch)

    def sample(self, epoch: int, index: int) -> dict[str, torch.Tensor]:
        """Return one sample with its image and text."""
        shard, number = self._places[index]
        key, caption, data = self._shards[shard].sample(number)
        image = _decoded(data, f"{self._shards[shard].path}: sample '{key}'")
        return {"image": self._view(image, key, epoch), "text": self._tokens(caption)}

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        """Normalize images as the model was defined, ``[b, 3, size, size]``."""
        return self._preprocess.normalized(images)

    def _view(self, image: Image.Image, key: str, epoch: int) -> torch.Tensor:
        if self._augmentation is None:
            return self._preprocess.pixels(self._preprocess.center(image))
        view = sample_view(self._augmentation, self._seed, key, epoch, *image.size)
        return draw(image, view, self._preprocess.size, self._preprocess.interpolation)


class FeatureSource:
    """Pairs in memory, for training on top of frozen towers: whatever the model takes as ``image`` and ``text``.

    A tensor ``[n, ...]`` has one row a sample. A list of n tensors ``[choices, ...]`` has several, of which each epoch
    draws one.
    """

    def __init__(
        self, images: torch.Tensor | Sequence[torch.Tensor], texts: torch.Tensor | Sequence[torch.Tensor], *, seed: int
    ) -> None:
        if len(images) != len(texts):
            raise ValueError(f"{len(images)} images for {len(texts)} texts")
        self._columns = {"image": images, "text": texts}
        self._seed = seed
        self._places = _Places([len(images)])

    def __len__(self) -> int:
        return len(self._places)

    def order(self, epoch: int) -> Iterator[np.ndarray]:
        """Yield the indices of an epoch's samples in the order to be seen."""
        return self._places.mixed(self._seed, epoch)

    def sample(self, epoch: int, index: int) -> dict[str, torch.Tensor]:
        """Return one sample with all its columns."""
        return {key: self._drawn(key, epoch, index) for key in self._columns}

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        """Return the features unchanged."""
        return images

    def _drawn(self, key: str, epoch: int, index: int) -> torch.Tensor:
        column = self._columns[key]
        if isinstance(column, torch.Tensor):
            return column[index]
        return column[index][_choose(self._seed, epoch, str(index), key, len(column[index]))]


class _Places:
    """Samples numbered through all shards."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self._starts = np.cumsum([0, *sizes])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> tuple[int, int]:
        """Shard, and number in the shard."""
        shard = int(np.searchsorted(self._starts, index, side="right")) - 1
        return shard, index - int(self._starts[shard])

    def mixed(self, seed: int, epoch: int) -> Iterator[np.ndarray]:
        """All indices: shards in random order, and the samples of each few shards mixed."""
        random = np.random.default_rng((seed, epoch))
        shards = random.permutation(len(self._starts) - 1)
        for start in range(0, len(shards), MIXED_SHARDS):
            ranges = [np.arange(*self._starts[shard : shard + 2]) for shard in shards[start : start + MIXED_SHARDS]]
            yield random.permutation(np.concatenate(ranges))


class _RawShard:
    """The kept samples of a tar, by their row in the table of them."""

    _KIND = np.dtype([("caption", np.int64, 2), ("image", "S8")])

    def __init__(self, path: Path, table: pa.Table, file: RowFile) -> None:
        self.path, self._file = path, file
        self._tar = IndexedTar(path, file, table.column("key").to_pylist())
        captions = [caption.encode() for caption in table.column("caption").to_pylist()]
        rows = np.zeros(len(captions), self._KIND)
        rows["image"] = table.column("image").to_pylist()
        sizes = np.array([len(caption) for caption in captions], np.int64)
        rows["caption"][:, 0] = file.append(b"".join(captions)) + np.cumsum(sizes) - sizes
        rows["caption"][:, 1] = sizes
        self._rows = Rows.store(rows, file)

    def __len__(self) -> int:
        return len(self._rows)

    def sample(self, number: int) -> tuple[str, str, bytes]:
        """Key, caption and image file."""
        row = self._rows[number]
        extension = row["image"].decode()
        image = self._tar.members(number, extension).get(extension, b"")
        return self._tar.key(number), self._file.read(*row["caption"].tolist()).decode(), image


class _Tokens:
    """Tokens ``[L]`` of a text, those of recent texts remembered in each process."""

    def __init__(self, tokenize: Tokenize) -> None:
        self._tokenize = tokenize
        self._remembered = lru_cache(REMEMBERED_TEXTS)(lambda text: tokenize([text])[0])

    def __call__(self, text: str) -> torch.Tensor:
        return self._remembered(text)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Tokens, (self._tokenize,)


def _decoded(data: bytes, name: str) -> Image.Image:
    try:
        return pictures.decode(data)
    except BadSample as bad:
        raise ShardError(f"{name}: {bad}; the shard has changed since it was validated, fetch it again") from bad


def _choose(seed: int, epoch: int, key: str, what: str, count: int) -> int:
    """One of ``count``, by hash."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{what}/{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % count


def _expression(captions: str) -> re.Pattern[str]:
    try:
        return re.compile(captions)
    except re.error as error:
        raise UserError(f"captions: '{captions}' is not a regular expression ({error})") from error
