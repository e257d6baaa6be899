"""Write rows as WebDataset shards, with webdataset's writer. A killed import continues at its first missing shard."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from mobileclip2.data.bad_sample import BadSample
from mobileclip2.data.importing.row import Row, Rows, class_of, read_picture
from mobileclip2.errors import UserError, without_secrets
from mobileclip2.extras import needs
from mobileclip2.progress import Progress, Step, silent
from mobileclip2.store.storage import atomic_path

ROWS_A_SHARD = 1000
STATE = "import.json"
"""file with the options of the import that wrote a folder"""
VERSION = 2
COUNTS = {"rows", "samples", "skipped", "rows_sha256"}
"""fields of the file beside a shard"""
NAMED = 3
"""number of bad rows that a message names for each reason"""


@dataclass
class Imported:
    """What an import wrote."""

    folder: Path
    shards: int = 0
    rows: int = 0
    samples: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    """bad rows by reason"""
    examples: dict[str, list[str]] = field(default_factory=dict)
    """sources of the first bad rows by reason"""
    reused: int = 0
    """shards of an earlier, interrupted import"""

    def add(self, counts: Mapping[str, Any]) -> None:
        """Add the ``rows``, ``samples`` and ``skipped`` of a shard."""
        self.shards += 1
        self.rows += counts["rows"]
        self.samples += counts["samples"]
        for bad in counts["skipped"]:
            self.skipped[bad["reason"]] += 1
            examples = self.examples.setdefault(bad["reason"], [])
            if len(examples) < NAMED:
                examples.append(f"{bad['source']}: {bad['detail']}")

    def reasons(self) -> str:
        """Return a line for each reason with its count and first rows."""
        return "\n".join(
            f"  {reason}: {count}\n" + "\n".join(f"    {example}" for example in self.examples[reason])
            for reason, count in self.skipped.most_common()
        )


def import_shards(
    rows: Rows,
    folder: Path,
    *,
    templates: Sequence[str] = (),
    rows_a_shard: int = ROWS_A_SHARD,
    progress: Progress = silent,
) -> Imported:
    """Write rows as shards of image-text pairs.

    A row with several captions becomes a sample for each. A row with a class and no caption gets a caption from
    ``templates``, in turn, in which ``{c}`` is replaced by the class. Equal rows give equal bytes. Beside each shard lies a
    JSON file with its counts, its bad rows, and a hash of its rows. The hash has the size and the time of a picture's file.
    ``rows_a_shard`` counts good and bad rows.

    Raises:
        UserError: the folder holds other data or shards of other rows, or no row is usable. The message names the reasons.
    """
    numbered = enumerate(rows)
    start = list(itertools.islice(numbered, 1))  # a table without the columns raises before the folder exists
    remaining = itertools.chain(start, numbered)
    folder.mkdir(parents=True, exist_ok=True)
    _check_state(folder, {"version": VERSION, "templates": list(templates), "rows": rows_a_shard})
    imported = Imported(folder)
    for shard in itertools.count():
        digest = hashlib.sha256()
        taken = _hashed(itertools.islice(remaining, rows_a_shard), digest)
        tar, counts = folder / f"{shard:05d}.tar", folder / f"{shard:05d}.json"
        if tar.exists() and (stored := _counts(counts)):
            deque(taken, maxlen=0)
            if stored["rows_sha256"] != digest.hexdigest():
                raise _other_import(folder, counts.name)
            imported.add(stored)
            imported.reused += 1
            continue
        first = next(taken, None)
        if first is None:
            if tar.exists():
                raise _other_import(folder, tar.name)
            break
        samples = partial(_samples, shard, rows_a_shard, templates)
        written = write_tar(tar, itertools.chain([first], taken), samples)
        write_json(counts, {**written, "rows_sha256": digest.hexdigest()})
        imported.add(written)
        progress(Step(imported.rows, 0, "rows", {"samples": imported.samples, "skipped": imported.skipped.total()}))
    if imported.samples == 0:
        _discard(folder, imported.shards)  # so that the corrected command can write here
        check_usable(imported)
    return imported


def check_usable(imported: Imported) -> None:
    """Check that at least one row was usable.

    Raises:
        UserError: no row is usable. The message names the reasons.
    """
    if imported.rows == 0:
        raise UserError(f"{imported.folder}: nothing to import; the table has no row below its header")
    if imported.samples == 0:
        raise UserError(f"{imported.folder}: none of the {imported.rows} rows can be used\n{imported.reasons()}")


def _discard(folder: Path, shards: int) -> None:
    for shard in range(shards):
        (folder / f"{shard:05d}.tar").unlink(missing_ok=True)
        (folder / f"{shard:05d}.json").unlink(missing_ok=True)
    (folder / STATE).unlink()


def _check_state(folder: Path, state: Mapping[str, Any]) -> None:
    path = folder / STATE
    if path.exists():
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            known = None
        if known != state:
            raise _other_import(folder, STATE)
    elif any(folder.iterdir()):
        raise UserError(f"{folder}: the folder is not empty and holds no import; give a new folder to '-o'")
    else:
        write_json(path, state)


def _other_import(folder: Path, file: str) -> UserError:
    return UserError(
        f"{folder}: it holds an import of other rows or pictures, or with other options ({file}); give a new folder to '-o'"
    )


def _counts(path: Path) -> dict[str, Any] | None:
    """Return the counts of a finished shard, or None if the file is missing or damaged."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    return stored if isinstance(stored, dict) and stored.keys() >= COUNTS else None


def _hashed(rows: Iterator[tuple[int, Row]], digest: hashlib._Hash) -> Iterator[tuple[int, Row]]:
    """Yield the rows, and hash what their samples depend on."""
    for number, row in rows:
        reason = row.fault.reason if row.fault else None
        digest.update(ascii((row.name, row.captions, row.label, reason, _version(row.image))).encode())
        yield number, row


def _version(picture: Path | bytes | None) -> object:
    """Return what changes with the content of a picture, without reading its file."""
    if isinstance(picture, bytes):
        return hashlib.sha256(picture).hexdigest()
    try:
        status = picture.stat() if picture else None
    except (OSError, ValueError):  # read_picture gives the reason
        return None
    return status and (status.st_size, status.st_mtime_ns)


def write_json(path: Path, content: object) -> None:
    """Write JSON atomically. A character of a file name that is not UTF-8 becomes an escape of JSON."""
    text = json.dumps(content, indent=1, ensure_ascii=False)
    with atomic_path(path) as temporary:
        temporary.write_text(f"{text}\n", encoding="utf-8", errors="backslashreplace")


def write_tar(
    path: Path, rows: Iterable[tuple[int, Row]], samples_of: Callable[[int, Row], Iterable[dict[str, Any]]]
) -> dict[str, Any]:
    """Write the samples of numbered rows to a tar atomically, and return the counts. Equal samples give equal bytes."""
    with needs("pipeline"):
        import webdataset  # its import takes a second

    count = samples = 0
    skipped: list[dict[str, str]] = []
    with (
        atomic_path(path) as temporary,
        temporary.open("wb") as file,
        webdataset.TarWriter(file, encoder=False, user="", group="", mode=0o644, mtime=0) as writer,
    ):
        for number, row in rows:
            count += 1
            try:
                for sample in samples_of(number, row):
                    writer.write(sample)
                    samples += 1
            except BadSample as bad:
                entry = {"source": row.source, "reason": bad.reason, "detail": bad.detail}
                # without the password and the query of a URL
                skipped.append({name: without_secrets(text) for name, text in entry.items()})
    return {"rows": count, "samples": samples, "skipped": skipped}


def _samples(
    shard: int, rows_a_shard: int, templates: Sequence[str], number: int, row: Row
) -> Iterator[dict[str, Any]]:
    digits = len(str(rows_a_shard - 1))
    key = f"{shard:05d}{number % rows_a_shard:0{digits}d}"
    captions = checked_captions(row, number, templates)
    extension, data = read_picture(row.image)
    for index, caption in enumerate(captions):
        fields = {"source": without_secrets(row.name), **({"label": row.label} if row.label is not None else {})}
        yield {
            "__key__": key if index == 0 else f"{key}-{index}",
            extension: data,
            "txt": caption,
            "json": json.dumps(fields, ensure_ascii=False).encode(errors="replace"),
        }


def checked_captions(row: Row, number: int, templates: Sequence[str]) -> list[bytes]:
    """Return the captions of a row in UTF-8, or one from a template and the class.

    Raises:
        BadSample: the row has a fault or no caption, or a caption cannot be encoded.
    """
    if row.fault:
        raise row.fault
    captions = [text for caption in row.captions if (text := " ".join(caption.split()))]
    if not captions and row.label and row.label.strip() and templates:
        captions = [templates[number % len(templates)].replace("{c}", class_of(row))]
    if not captions:
        raise BadSample("empty-caption" if row.captions else "missing-caption", "the row has no text")
    try:
        return [caption.encode() for caption in captions]
    except UnicodeEncodeError as error:
        raise BadSample("bad-encoding", f"a caption cannot be stored as UTF-8 ({error.reason}); correct it") from error
