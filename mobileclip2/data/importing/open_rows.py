"""Find out what a path holds, and return its rows."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from mobileclip2.data.importing.folders import captioned_folder, class_folders, has_captions, pictures
from mobileclip2.data.importing.hugging_face import MARKERS, saved_dataset
from mobileclip2.data.importing.row import Rows
from mobileclip2.data.importing.tables import ENDINGS, GUESSED, Columns, Table
from mobileclip2.errors import UserError

METADATA = ("metadata", "captions", "labels")
"""names of a table inside a folder of pictures, without ending"""

TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
"""endings that only a table has"""


def open_rows(
    path: Path,
    captions: Path | None = None,
    columns: Columns = GUESSED,
    *,
    encoding: str | None = None,
    delimiter: str | None = None,
    split: str | None = None,
) -> Rows:
    """Return the rows of a table, a folder of pictures, or the ``split`` of a Hugging Face data set on this machine.

    ``captions`` is a table whose pictures lie in the folder ``path``.

    Raises:
        UserError: the path does not exist, or holds nothing that can be imported. The message says what can be.
    """

    def table(file: Path, folder: Path | None = None) -> Table:
        return Table(file, folder, columns, encoding, delimiter)

    for each in filter(None, (path, captions)):
        if not each.exists():
            raise UserError(f"{each}: there is no such file or folder")
    if captions:
        if not path.is_dir():
            raise UserError(f"{path}: not a folder; '--captions' describes the pictures of a folder")
        return table(captions, path)
    if path.is_file():
        return table(_checked_table(path))
    if any((path / marker).is_file() for marker in MARKERS):
        return saved_dataset(path, columns, split)
    if found := _table_in(path, ENDINGS):
        return table(found, path)
    if images := pictures(path):
        if has_captions(images):
            return captioned_folder(path)
        below = {picture.parent for picture in images}
        below |= {each for folder in below for each in folder.parents if path in each.parents}
        if found := next(filter(None, (_table_in(each, TABLES) for each in sorted(below))), None):
            raise UserError(
                f"{path}: the table {found} lies in a subfolder; import {found.parent} alone, name a table of all "
                "pictures with --captions, or move this one if each folder is a class"
            )
        # a folder with a few pictures in a subfolder has no classes
        if 2 * sum(picture.parent != path for picture in images) > len(images):
            return class_folders(path)
        raise UserError(
            f"{path}: {len(images)} pictures and no captions. Give a table with --captions, put a .txt file beside "
            "each picture, or sort the pictures into a folder for each class"
        )
    if tables := sorted(path.rglob("*.parquet")):
        return itertools.chain.from_iterable(map(table, tables))
    if any(path.rglob("*.tar")):
        raise UserError(f"{path}: these tars are shards already; use them with: mobileclip2 init --images {path}")
    if compressed := [file for ending in ("tar.gz", "tgz", "tar.zst", "zip") for file in path.rglob(f"*.{ending}")]:
        raise UserError(f"{compressed[0]}: compressed archives are not read; unpack them and import the folder")
    raise UserError(f"{path}: no pictures and no table; a table ends with {', '.join(ENDINGS)}")


def _table_in(folder: Path, endings: Sequence[str]) -> Path | None:
    """Return the first table that describes the pictures of a folder and lies in it."""
    files = (folder / f"{name}{ending}" for name in METADATA for ending in endings)
    return next((file for file in files if file.is_file()), None)


def _checked_table(path: Path) -> Path:
    name = path.name.lower()
    if name.endswith(".tar"):
        raise UserError(
            f"{path}: a tar of samples is a shard already; use it with: mobileclip2 init --images {path.parent}"
        )
    if name.endswith((".gz", ".zst", ".zip", ".tgz", ".xz", ".bz2")):
        raise UserError(f"{path}: compressed files are not read; unpack it first")
    if not name.endswith(ENDINGS):
        raise UserError(f"{path}: not a table that can be imported; tables end with {', '.join(ENDINGS)}")
    return path
