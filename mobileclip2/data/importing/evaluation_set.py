"""Write rows as an evaluation set: zero-shot classification if the rows have classes, else retrieval."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mobileclip2.data.bad_sample import BadSample
from mobileclip2.data.importing.row import Row, Rows, read_picture
from mobileclip2.data.importing.shards import STATE, Imported, check_usable, checked_captions, open_tar
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

    Rows with the same picture file are one picture with several captions.

    Raises:
        UserError: the folder is not empty, or no row is usable.
    """
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder}: the folder is not empty; give a new folder to '-o'")
    folder.parent.mkdir(parents=True, exist_ok=True)
    # written elsewhere and renamed, so that a killed import leaves no half of a set
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
        imported = _write(_merge(rows), Path(temporary) / folder.name, templates, progress)
        imported.folder = folder
        check_usable(imported)
        (Path(temporary) / folder.name).replace(folder)
    return imported


def _write(rows: Sequence[Row], folder: Path, templates: Sequence[str], progress: Progress) -> Imported:
    classes = sorted({row.label for row in rows if row.label is not None and not row.fault})
    index = {name: number for number, name in enumerate(classes)}
    (folder / "test").mkdir(parents=True)
    samples = 0
    skipped = []
    with open_tar(folder / "test" / "0.tar") as writer:
        for number, row in enumerate(rows):
            try:
                writer.write({"__key__": f"{number:06d}", **_members(row, number, index)})
                samples += 1
            except BadSample as bad:
                skipped.append({"source": row.source, "reason": bad.reason, "detail": bad.detail})
            if number % 100 == 99:
                progress(Step(number + 1, len(rows), "pictures"))
    texts = {STATE: json.dumps({"skipped": skipped}, indent=1, ensure_ascii=False)}
    if classes:
        texts |= {CLASSNAMES: "\n".join(classes), TEMPLATE_FILE: "\n".join(templates)}
    texts |= {TYPE: "classification" if classes else "retrieval", NSHARDS: "1"}
    for name, text in texts.items():
        (folder / name).write_text(f"{text}\n", encoding="utf-8")
    imported = Imported(folder)
    imported.add(len(rows), samples, skipped)
    return imported


def _merge(rows: Rows) -> list[Row]:
    """Return the rows with the captions of equal picture files together, in the order of their first row."""
    merged: dict[object, Row] = {}
    for number, row in enumerate(rows):
        key: object = row.image if isinstance(row.image, Path) and not row.fault else number
        if key in merged:
            first = merged[key]
            merged[key] = replace(first, captions=(*first.captions, *row.captions))
        else:
            merged[key] = row
    return list(merged.values())


def _members(row: Row, number: int, classes: dict[str, int]) -> dict[str, bytes]:
    if classes:
        if row.fault:
            raise row.fault
        if row.label is None:
            raise BadSample("no-class", "the row has no class")
        extension, data = read_picture(row.image)
        return {extension: data, "cls": str(classes[row.label]).encode()}
    captions = checked_captions(row, number, ())
    extension, data = read_picture(row.image)
    return {extension: data, "txt": "\n".join(captions).encode()}
