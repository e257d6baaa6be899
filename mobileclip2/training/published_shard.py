"""The valid samples of a published reinforced shard, with images from the shard or joined from image shards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from mobileclip2.data.indexed_tar import IndexedTar
from mobileclip2.data.reinforced_format import MEMBERS
from mobileclip2.data.row_file import FileArray, RowFile
from mobileclip2.data.validate_reinforced import IMAGE_MEMBERS, complete, digest
from mobileclip2.errors import ShardError


@dataclass(frozen=True)
class PublishedShard:
    """A reinforced tar, its table with schema :data:`mobileclip2.data.validate_reinforced.VALID`, and its image tars."""

    path: Path
    table: pa.Table
    images: Mapping[str, Path]
    """by the name in the column ``image_shard``"""


class OpenPublishedShard(IndexedTar):
    """Random access to the samples of a :class:`PublishedShard`, in the order of its table. ``file`` stores their index.

    Raises:
        ShardError: a shard cannot be read, or lacks a sample of the table.
    """

    def __init__(self, shard: PublishedShard, file: RowFile) -> None:
        columns = {name: shard.table.column(name).to_pylist() for name in ("key", "image_key", "image_shard", "sha256")}
        super().__init__(shard.path, file, columns["key"], MEMBERS)
        names = [name for name in dict.fromkeys(columns["image_shard"]) if name is not None]
        keys: dict[str, list[str]] = {name: [] for name in names}
        rows = np.zeros(len(columns["key"]), [("sha256", "S64"), ("image", np.int64, 2)])
        for row, (key, name, sha256) in enumerate(
            zip(columns["image_key"], columns["image_shard"], columns["sha256"], strict=True)
        ):
            rows[row] = sha256.encode(), (-1, -1) if name is None else (names.index(name), len(keys[name]))
            if name is not None:
                keys[name].append(key)
        self._images = [IndexedTar(shard.images[name], file, keys[name], IMAGE_MEMBERS) for name in names]
        self._validated = FileArray(rows, file)

    def members(self, number: int, *extensions: str) -> dict[str, bytes]:
        """Return the members of a sample by extension, with the joined image.

        Raises:
            ShardError: the sample differs from the validated one.
        """
        validated = self._validated[number]
        tar, row = validated["image"].tolist()
        members = complete(super().members(number), self._images[tar].members(row) if tar >= 0 else {})
        if digest(members) != validated["sha256"].decode():
            raise ShardError(
                f"{self.path}: sample '{self.key(number)}' or its image has changed since it was validated; "
                "restore it, or run reinforced_shards again"
            )
        return {name: members[name] for name in extensions or members if name in members}
