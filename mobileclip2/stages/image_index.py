"""Find the samples of image shards by key, over all shards of a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

from mobileclip2.data.bounded_json import load_json
from mobileclip2.data.indexed_tar import IndexedTar
from mobileclip2.data.validate import MAX_TEXT_BYTES
from mobileclip2.data.validate_reinforced import IMAGE_MEMBERS, ImageSample
from mobileclip2.engine.shard import Shard, local_copy
from mobileclip2.progress import counted, doing

OPEN_TARS = 8
"""number of image tars whose samples are indexed at a time; the samples of a reinforced shard lie in few of them"""


class ImageIndex:
    """The image shard of each key. An entry has 12 bytes, so that 12 million images need 150 MB."""

    def __init__(self, shards: Sequence[Shard], *, uid: bool) -> None:
        self._shards, self._uid = shards, uid
        self._tars = lru_cache(OPEN_TARS)(self._open)
        hashes, numbers = [np.empty(0, np.uint64)], [np.empty(0, np.int32)]
        with doing("indexing images"):
            for number, shard in enumerate(shards):
                counted(number, len(shards), "image shards")
                found = np.array([_hash(key) for key, _ in self._keys(_index(shard))], np.uint64)
                hashes.append(found)
                numbers.append(np.full(len(found), number, np.int32))
        joined = np.concatenate(hashes)
        # stable, so that the first shard wins if a key occurs twice
        order = np.argsort(joined, kind="stable")
        self._hashes = joined[order]
        self._numbers = np.concatenate(numbers)[order]

    def find(self, key: str) -> ImageSample | None:
        """Return the sample of an image shard that belongs to a reinforced sample."""
        hashed = np.uint64(_hash(key))
        row = int(np.searchsorted(self._hashes, hashed))
        while row < len(self._hashes) and self._hashes[row] == hashed:
            number = int(self._numbers[row])
            tar, rows = self._tars(number)
            if key in rows:  # another key can have the same hash
                return ImageSample(self._shards[number].relative, tar.key(rows[key]), tar.members(rows[key]))
            row += 1
        return None

    def _open(self, number: int) -> tuple[IndexedTar, dict[str, int]]:
        tar = _index(self._shards[number])
        rows: dict[str, int] = {}
        for key, row in self._keys(tar):
            rows.setdefault(key, row)
        return tar, rows

    def _keys(self, tar: IndexedTar) -> Iterator[tuple[str, int]]:
        """Yield the key of each sample, or its ``uid``, and its row."""
        for row in range(len(tar)):
            if not self._uid:
                yield tar.key(row), row
                continue
            data = tar.members(row, "json").get("json", b"")
            try:
                if len(data) <= MAX_TEXT_BYTES:
                    yield str(load_json(data)["uid"]), row
            except (KeyError, TypeError, ValueError):
                continue  # an image without uid belongs to no reinforced sample


image_index = lru_cache(1)(ImageIndex)
"""returns the index of a tuple of image shards; the groups of a run share it"""


def _index(shard: Shard) -> IndexedTar:
    return IndexedTar(local_copy(shard.url, shard.version_token), extensions=IMAGE_MEMBERS)


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(errors="surrogatepass"), digest_size=8).digest(), "little")
