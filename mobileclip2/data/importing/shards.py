"""Write rows as WebDataset shards, with webdataset's writer. A killed import continues at its first missing shard."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mobileclip2.data.bad_sample import BadSample
from mobileclip2.data.importing.row import Row, Rows, read_picture
from mobileclip2.errors import UserError
from mobileclip2.extras import needs
from mobileclip2.progress import Progress, Step, silent
from mobileclip2.store.storage import atomic_path

ROWS_A_SHARD = 1000
STATE = "import.json"
"""file that lists which rows a folder holds"""
VERSION = 1
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

    def add(self, rows: int, samples: int, skipped: Sequence[Mapping[str, str]]) -> None:
        """Count a shard."""
        self.shards += 1
        self.rows += rows
        self.samples += samples
        for bad in skipped:
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
    JSON file with its counts and bad rows.

    Args:
        rows_a_shard: rows of each shard, good and bad ones.

    Raises:
        UserError: the folder holds other data, or no row is usable. The message names the reasons.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _check_state(folder, {"version": VERSION, **rows.identity, "templates": list(templates), "rows": rows_a_shard})
    imported = Imported(folder)
    numbered = enumerate(rows)
    for shard in itertools.count():
        taken = itertools.islice(numbered, rows_a_shard)
        tar, counts = folder / f"{shard:05d}.tar", folder / f"{shard:05d}.json"
        if tar.exists() and counts.exists():
            stored = json.loads(counts.read_text())
            if sum(1 for _ in taken) == 0:
                break
            imported.add(stored["rows"], stored["samples"], stored["skipped"])
            imported.reused += 1
            continue
        first = next(taken, None)
        if first is None:
            break
        taken_rows, samples, skipped = _write_shard(
            tar, shard, itertools.chain([first], taken), templates, rows_a_shard
        )
        with atomic_path(counts) as temporary:
            body = {"rows": taken_rows, "samples": samples, "skipped": skipped}
            temporary.write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        imported.add(taken_rows, samples, skipped)
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
        except ValueError:
            known = None
        if known != state:
            raise UserError(
                f"{folder}: it holds an import of other rows or with other options ({STATE}); give a new folder to '-o'"
            )
    elif any(folder.iterdir()):
        raise UserError(f"{folder}: the folder is not empty and holds no import; give a new folder to '-o'")
    else:
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(state, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_shard(
    tar: Path, shard: int, rows: Iterator[tuple[int, Row]], templates: Sequence[str], rows_a_shard: int
) -> tuple[int, int, list[dict[str, str]]]:
    count = samples = 0
    skipped: list[dict[str, str]] = []
    digits = len(str(rows_a_shard - 1))
    with open_tar(tar) as writer:
        for number, row in rows:
            count += 1
            key = f"{shard:05d}{number % rows_a_shard:0{digits}d}"
            try:
                for sample in _samples(key, row, number, templates):
                    writer.write(sample)
                    samples += 1
            except BadSample as bad:
                skipped.append({"source": row.source, "reason": bad.reason, "detail": bad.detail})
    return count, samples, skipped


@contextmanager
def open_tar(path: Path) -> Iterator[Any]:
    """Open webdataset's writer for a tar that appears if the block succeeds. Equal samples give equal bytes."""
    with needs("pipeline"):
        import webdataset  # its import takes a second

    with (
        atomic_path(path) as temporary,
        temporary.open("wb") as file,
        webdataset.TarWriter(file, encoder=False, user="", group="", mode=0o644, mtime=0) as writer,
    ):
        yield writer


def _samples(key: str, row: Row, number: int, templates: Sequence[str]) -> Iterator[dict[str, Any]]:
    captions = checked_captions(row, number, templates)
    extension, data = read_picture(row.image)
    for index, caption in enumerate(captions):
        fields = {"source": row.name, **({"label": row.label} if row.label is not None else {})}
        yield {
            "__key__": key if index == 0 else f"{key}-{index}",
            extension: data,
            "txt": caption.encode(),
            "json": json.dumps(fields, ensure_ascii=False).encode(errors="replace"),
        }


def checked_captions(row: Row, number: int, templates: Sequence[str]) -> list[str]:
    """Return the captions of a row, or one from a template and the class.

    Raises:
        BadSample: the row has a fault, or no caption.
    """
    if row.fault:
        raise row.fault
    captions = [text for caption in row.captions if (text := " ".join(caption.split()))]
    if captions:
        return captions
    if row.label and row.label.strip() and templates:
        return [templates[number % len(templates)].replace("{c}", row.label.strip())]
    raise BadSample("empty-caption" if row.captions else "missing-caption", "the row has no text")
