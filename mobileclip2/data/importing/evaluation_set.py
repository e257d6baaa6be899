"""Write rows as an evaluation set: zero-shot classification if the rows have classes, else retrieval."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from mobileclip2.data.bad_sample import BadSample
from mobileclip2.data.caption_text import check_content, is_visible, normalized_name
from mobileclip2.data.importing.row import Row, Rows, class_of, read_picture
from mobileclip2.data.importing.shards import STATE, Imported, check_usable, checked_captions, write_json, write_tar
from mobileclip2.errors import UserError
from mobileclip2.progress import Progress, Step, silent

CLASSNAMES, TYPE, NSHARDS = "classnames.txt", "dataset_type.txt", "test/nshards.txt"
TEMPLATE_FILE = "zeroshot_classification_templates.txt"

TEMPLATES = ("a photo of a {c}.", "a picture of a {c}.", "a {c}.")
"""prompts of a zero-shot set, ``{c}`` stands for the class"""


def import_evaluation_set(
    rows: Rows, folder: Path, *, templates: Sequence[str] = TEMPLATES, progress: Progress = silent
) -> Imported:
    """Write rows as an evaluation set in the layout of :mod:`mobileclip2.evaluation.sets`.

    Rows with the same picture file are one picture with several captions. A picture with two classes is left out. Class
    names that differ only in case are one class.

    Raises:
        UserError: the folder is not empty, or no row is usable.
    """
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder}: the folder is not empty; give a new folder to '-o'")
    folder.parent.mkdir(parents=True, exist_ok=True)
    # written elsewhere and renamed, so that a killed import leaves no half of a set
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
        imported = _write(list(rows), Path(temporary) / folder.name, templates, progress)
        imported.folder = folder
        check_usable(imported)
        (Path(temporary) / folder.name).replace(folder)
    return imported


def _write(rows: Sequence[Row], folder: Path, templates: Sequence[str], progress: Progress) -> Imported:
    named = any(row.label and row.label.strip() for row in rows if not row.fault)
    pictures = _merge(rows, named=named)
    classes = sorted({row.label for row in pictures if row.label is not None and not row.fault})
    index = {name: number for number, name in enumerate(classes)}

    def numbered() -> Iterator[tuple[int, Row]]:
        for number, row in enumerate(pictures):
            yield number, row
            if number % 100 == 99:
                progress(Step(number + 1, len(pictures), "pictures"))

    (folder / "test").mkdir(parents=True)
    written = write_tar(folder / "test" / "0.tar", numbered(), partial(_samples, index))
    write_json(folder / STATE, {"skipped": written["skipped"]})
    texts = {TYPE: "classification" if named else "retrieval", NSHARDS: "1"}
    if named:
        texts |= {CLASSNAMES: "\n".join(classes), TEMPLATE_FILE: "\n".join(templates)}
    for name, text in texts.items():
        (folder / name).write_text(f"{text}\n", encoding="utf-8")
    imported = Imported(folder)
    imported.add({**written, "rows": len(rows)})
    return imported


def _merge(rows: Sequence[Row], *, named: bool) -> list[Row]:
    """Return a row for each picture file with its class or all its captions, in the order of their first rows."""
    merged: dict[object, Row] = {}
    spellings: dict[str, str] = {}
    for number, read in enumerate(rows):
        row = _checked(read, spellings if named else None)
        key: object = row.image if isinstance(row.image, Path) and not row.fault else number
        merged[key] = _join(merged[key], row) if key in merged else row
    return list(merged.values())


def _checked(row: Row, spellings: dict[str, str] | None) -> Row:
    """Return the row with the first spelling of its class, or without a class, or with the fault of its text."""
    if row.fault:
        return row
    try:
        if spellings is None:
            for caption in row.captions:
                check_content(caption.strip())
            return replace(row, label=None)
        name = class_of(row)
    except BadSample as fault:
        return replace(row, fault=fault)
    return replace(row, label=spellings.setdefault(normalized_name(name), name))


def _join(first: Row, row: Row) -> Row:
    if first.label != row.label:
        conflict = BadSample("conflicting-class", f"the picture has the classes '{first.label}' and '{row.label}'")
        return replace(first, fault=first.fault or conflict)
    return replace(first, captions=(*first.captions, *row.captions))


def _samples(classes: dict[str, int], number: int, row: Row) -> Iterator[dict[str, Any]]:
    if row.fault:
        raise row.fault
    if row.label is not None:
        target = {"cls": str(classes[row.label]).encode()}
    else:
        target = {"txt": b"\n".join(checked_captions(row, number, ()))}
        if not any(map(is_visible, row.captions)):
            raise BadSample("empty-caption", "no character of the caption is visible")
    extension, data = read_picture(row.image)
    yield {"__key__": f"{number:06d}", extension: data, **target}
