"""Rows of a table: CSV, TSV, JSON lines or Parquet with a column of pictures and columns of captions or classes."""

from __future__ import annotations

import csv
import io
import itertools
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PureWindowsPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mobileclip2.data.bad_sample import BadSample
from mobileclip2.data.bounded_json import load_json
from mobileclip2.data.importing.folders import pictures
from mobileclip2.data.importing.row import PICTURES, Row, captions_of
from mobileclip2.errors import UserError
from mobileclip2.names import did_you_mean, listed

IMAGE_COLUMNS = (
    "filepath", "file_path", "image_path", "image", "file_name", "filename", "file", "path", "img", "picture", "photo",
    "jpg", "url", "image_url",
)  # fmt: skip
CAPTION_COLUMNS = (
    "caption", "captions", "text", "texts", "title", "sentence", "sentences", "description", "alt_text", "alt", "raw",
    "txt", "prompt",
)  # fmt: skip
LABEL_COLUMNS = ("label", "class", "class_name", "classname", "category")

ENDINGS = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".json", ".parquet")
"""endings of tables, in lower case"""

SAMPLE_CHARACTERS = 65_536
MAX_FIELD = 1 << 24
"""maximum number of characters of one field, so that a missing quote does not read the whole table"""

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Columns:
    """Names of the columns; empty ones are guessed."""

    image: str | None = None
    captions: tuple[str, ...] = ()
    label: str | None = None


GUESSED = Columns()

UNREADABLE = (pa.ArrowException, OSError, UnicodeDecodeError)
"""errors of pyarrow for a damaged file; for text that is not UTF-8 it raises Python's error"""


@dataclass(frozen=True)
class Table:
    """Rows of a table.

    Relative paths of pictures are looked up in ``folder``, then in the folder of the table. A path that does not exist there is
    shortened by its first folders. A name without folders can lie in any subfolder. The case of letters can differ.
    """

    path: Path
    folder: Path | None = None
    columns: Columns = GUESSED
    encoding: str | None = None
    delimiter: str | None = None

    def __iter__(self) -> Iterator[Row]:
        chosen = self.chosen
        for number, record in enumerate(self._records(), 1):
            yield self.row(number, record, chosen)

    @cached_property
    def chosen(self) -> Columns:
        """Columns to read.

        Raises:
            UserError: a named column does not exist, none can be guessed, or two have the same name.
        """
        names = list(self._names)
        for name in filter(None, (self.columns.image, *self.columns.captions, self.columns.label)):
            if name not in names:
                raise UserError(
                    f"{self.path}: there is no column '{name}'{did_you_mean(name, names)}; it has {listed(names)}"
                )
        image = self.columns.image or _first(names, IMAGE_COLUMNS)
        captions = self.columns.captions or _captions(names)
        label = self.columns.label or _first(names, LABEL_COLUMNS)
        missing = {} if image else {"pictures": "--image-column"}
        if not captions and label is None:
            missing["captions or classes"] = "--caption-column or --label-column"
        if missing:
            raise UserError(
                f"{self.path}: no column looks like {' and none like '.join(missing)}; it has {listed(names)}. Name it with "
                f"{', and with '.join(missing.values())}"
            )
        for name in filter(None, (image, *captions, label)):
            if names.count(name) > 1:
                raise UserError(
                    f"{self.path}: {names.count(name)} columns have the name '{name}'; give each column its own name"
                )
        return Columns(image, captions, label)

    @cached_property
    def _names(self) -> Sequence[str]:
        if self._kind == "parquet":
            try:
                return list(pq.read_schema(self.path).names)
            except UNREADABLE as error:
                raise UserError(f"{self.path}: not a Parquet file ({error})") from error
        if self._kind == "csv":
            return self._header
        # all lines, because a field may be absent from most of them
        names = dict.fromkeys(name for record in self._records() for name in record if name)
        if not names:
            raise UserError(f"{self.path}: no line is a JSON object; write one object in each line (JSON lines)")
        return list(names)

    @property
    def _kind(self) -> str:
        suffix = self.path.suffix.lower()
        return "parquet" if suffix == ".parquet" else "json" if suffix in (".jsonl", ".ndjson", ".json") else "csv"

    def _records(self) -> Iterator[Record]:
        return {"parquet": self._parquet, "json": self._json_lines, "csv": self._csv}[self._kind]()

    def _parquet(self) -> Iterator[Record]:
        columns = list(filter(None, (self.chosen.image, *self.chosen.captions, self.chosen.label)))
        try:
            # a pre-buffered file stays in memory until its last row
            with pq.ParquetFile(self.path, pre_buffer=False) as file:
                for batch in file.iter_batches(16, columns=columns):
                    yield from batch.to_pylist()
        except UNREADABLE as error:
            raise UserError(f"{self.path}: the table is damaged ({error}); write it again") from error

    @cached_property
    def _encoding(self) -> str:
        if self.encoding:
            return self.encoding
        with self.path.open("rb") as file:
            start = file.read(4)
            if start.startswith((b"\xff\xfe", b"\xfe\xff")):
                return "utf-16"
            file.seek(0)
            try:
                deque(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""), maxlen=0)
            except UnicodeDecodeError:
                return "cp1252"
        return "utf-8-sig"

    @contextmanager
    def _open(self) -> Iterator[io.TextIOWrapper]:
        try:
            # a character that cannot be decoded makes its row bad
            with self.path.open(encoding=self._encoding, newline="", errors="replace") as file:
                yield file
        except LookupError as error:
            raise UserError(f"--encoding: {error}") from None
        except UnicodeError as error:
            raise UserError(f"{self.path}: cannot be decoded ({error}); name its encoding with --encoding") from error

    def _json_lines(self) -> Iterator[Record]:
        with self._open() as file:
            if file.read(1) == "[":
                raise UserError(
                    f"{self.path}: a JSON array; write one object per line (JSON lines), for example with: jq -c '.[]'"
                )
            file.seek(0)
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    record = load_json(line.encode())
                except ValueError as error:
                    record = {"": BadSample("bad-json", f"line {number}: {error}")}
                yield record if isinstance(record, dict) else {"": BadSample("bad-json", f"line {number}: no object")}

    @cached_property
    def _dialect(self) -> tuple[str, bool]:
        """The delimiter, and whether the first line has the names of the columns."""
        with self._open() as file:
            sample = file.read(SAMPLE_CHARACTERS)
        if not sample.strip():
            raise UserError(f"{self.path}: the table is empty")
        lines = sample.splitlines()
        delimiter = self.delimiter or _delimiter(lines, self.path.suffix.lower())
        first = next(csv.reader(lines[:1], delimiter=delimiter), [])
        return delimiter, not any(Path(field.strip()).suffix.lower() in PICTURES for field in first)

    @cached_property
    def _header(self) -> list[str]:
        delimiter, has_header = self._dialect
        with self._open() as file:
            first = next(csv.reader(file, delimiter=delimiter), [])
        if has_header:
            return [name.strip() for name in first]
        names = ["image" if Path(field.strip()).suffix.lower() in PICTURES else "" for field in first]
        rest = itertools.chain(["caption"], (f"caption_{number}" for number in itertools.count(2)))
        return [name or next(rest) for name in names]

    def _csv(self) -> Iterator[Record]:
        header = self._header
        delimiter, has_header = self._dialect
        csv.field_size_limit(MAX_FIELD)
        with self._open() as file:
            reader = csv.reader(file, delimiter=delimiter)
            if has_header:
                next(reader, None)
            try:
                for fields in reader:
                    if not fields:
                        continue
                    if len(fields) > len(header):
                        detail = f"line {reader.line_num}: {len(fields)} fields, but {len(header)} columns"
                        yield {"": BadSample("bad-row", f"{detail}; quote fields that contain '{delimiter}'")}
                    else:
                        yield dict(zip(header, fields, strict=False))
            except csv.Error as error:
                raise UserError(
                    f"{self.path}, line {reader.line_num}: {error}; a quote may be open in an earlier line"
                ) from error

    def row(self, number: int, record: Record, columns: Columns) -> Row:
        """Return the row of a record. ``number`` counts from 1."""
        source, name = f"{self.path}, row {number}", f"row {number}"
        if isinstance(fault := record.get(""), BadSample):
            return Row(source, name, None, fault=fault)
        value = record.get(columns.image or "")
        if isinstance(value, str):
            source, name = f"{source} ({value})", value
        captions: tuple[str, ...] = ()
        stated = record.get(columns.label) if columns.label else None
        label = None if stated is None else str(stated)
        try:
            captions = captions_of(text for column in columns.captions for text in _texts(record.get(column)))
            if any("\ufffd" in text for text in (*captions, label or "")):
                raise BadSample("bad-encoding", "a character cannot be decoded; name the encoding with --encoding")
            if not columns.captions and not (label or "").strip():
                raise BadSample("no-class", "the row has no class")
            return Row(source, name, self._image(value), captions, label)
        except BadSample as fault:
            return Row(source, name, None, captions, label, fault)

    def _image(self, value: Any) -> Path | bytes | None:
        if isinstance(value, dict):  # a picture of the Hugging Face library
            data = value.get("bytes")
            value = data if isinstance(data, bytes) and data else value.get("path")
        if isinstance(value, bytes) or value is None:
            return value
        if isinstance(value, dict | list):
            raise BadSample("missing-image", "the picture is a list or an object; write the name of a file")
        name = str(value).strip()
        if name.lower().startswith(("http://", "https://")):
            raise BadSample("image-is-url", f"{name}: download the pictures first, for example with img2dataset")
        if not name:
            return None
        return self._find(name)

    def _find(self, name: str) -> Path:
        folders = [folder for folder in (self.folder, self.path.parent) if folder is not None]
        try:
            for folder in folders:
                if (path := folder / name).is_file():
                    return path
        except OSError as error:  # for example a caption in the column of the pictures, which is too long for a name
            raise BadSample("missing-image", f"{name[:80]}: {error.strerror}") from error
        return self._find_in_other_place(name) or folders[0] / name

    def _find_in_other_place(self, name: str) -> Path | None:
        """Find a picture whose folders in the table are those of another machine, or whose case differs.

        Raises:
            BadSample: several pictures fit.
        """
        parts = PureWindowsPath(name).parts  # splits at both kinds of slash
        by_path, by_name = self._index
        found = next(filter(None, (by_path.get(_key(*parts[start:])) for start in range(len(parts)))), None)
        if found is None and len(parts) == 1:
            found = by_name.get(_key(name))
        if found and len(found) > 1:
            raise BadSample(
                "ambiguous-image",
                f"{name}: {found[0]} and {found[1]} fit; write the folder and the ending in the table",
            )
        return found[0] if found else None

    @cached_property
    def _index(self) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
        """Pictures by path in the folder and by name, with and without ending."""
        by_path: dict[str, list[Path]] = {}
        by_name: dict[str, list[Path]] = {}
        folder = self.folder or self.path.parent
        for path in pictures(folder):
            *folders, name = path.relative_to(folder).parts
            for each in (name, path.stem):
                by_path.setdefault(_key(*folders, each), []).append(path)
                by_name.setdefault(_key(each), []).append(path)
        return by_path, by_name


def _key(*parts: str) -> str:
    return "/".join(parts).casefold()


def _first(names: Sequence[str], wanted: Sequence[str]) -> str | None:
    by_lower = {name.lower().strip().replace(" ", "_"): name for name in reversed(names)}
    return next((by_lower[name] for name in wanted if name in by_lower), None)


def _captions(names: Sequence[str]) -> tuple[str, ...]:
    """Return the first known caption column, and those that continue it, such as ``caption_2``."""
    first = _first(
        names, [*CAPTION_COLUMNS, *(f"{name}{n}" for name in CAPTION_COLUMNS for n in ("_0", "_1", "0", "1"))]
    )
    if first is None:
        return ()
    stem = first.rstrip("01").rstrip("_")
    more = [
        name for name in names if name != first and name.startswith(stem) and name[len(stem) :].strip("_").isdigit()
    ]
    return (first, *more)


def _texts(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _delimiter(lines: Sequence[str], suffix: str) -> str:
    """Return the delimiter that splits the first lines into the same number of fields, at least two."""
    if suffix == ".tsv":
        return "\t"
    for delimiter in ("\t", ";", "|", ","):
        counts = {len(fields) for fields in csv.reader(lines[:20], delimiter=delimiter)}
        if len(counts) == 1 and counts != {1}:
            return delimiter
    return max(",;\t|", key=lines[0].count)
