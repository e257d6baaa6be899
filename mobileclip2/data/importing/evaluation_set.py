"""Write rows as an evaluation set: zero-shot classification if the rows have classes, else retrieval."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from mobileclip2.data.bad_sample import BadSample
from mobileclip2.data.importing.row import Row, Rows, read_picture
from mobileclip2.data.importing.write import Imported, checked_captions, open_tar
from mobileclip2.errors import UserError
from mobileclip2.progress import Progress, Step, silent
from mobileclip2.store.storage import atomic_path

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
    imported = Imported(folder, shards=1)
    merged = _merge(rows)
    classes = sorted({row.label for row in merged if row.label is not None and not row.fault})
    index = {name: number for number, name in enumerate(classes)}
    (folder / "test").mkdir(parents=True, exist_ok=True)
    skipped = []
    # the number of shards is written last: without it, the folder is no evaluation set
    with open_tar(folder / "test" / "0.tar") as writer:
        for number, row in enumerate(merged):
            imported.rows += 1
            try:
                writer.write({"__key__": f"{number:06d}", **_members(row, number, index)})
                imported.samples += 1
            except BadSample as bad:
                skipped.append({"source": row.source, "reason": bad.reason, "detail": bad.detail})
            if number % 100 == 99:
                progress(Step(number + 1, len(merged), "pictures"))
    imported.add(0, 0, skipped)
    imported.shards = 1
    if imported.samples == 0:
        raise UserError(f"{folder}: none of the {imported.rows} rows can be used\n{imported.reasons()}")
    texts = {"import.json": json.dumps({"skipped": skipped}, indent=1, ensure_ascii=False)}
    if classes:
        texts |= {"classnames.txt": "\n".join(classes), "zeroshot_classification_templates.txt": "\n".join(templates)}
    texts |= {"dataset_type.txt": "classification" if classes else "retrieval", "test/nshards.txt": "1"}
    for name, text in texts.items():
        with atomic_path(folder / name) as temporary:
            temporary.write_text(f"{text}\n", encoding="utf-8")
    return imported


def _merge(rows: Rows) -> list[Row]:
    """Return the rows with the captions of equal picture files together, in the order of their first row."""
    merged: dict[object, Row] = {}
    for number, row in enumerate(rows):
        key: object = row.image if isinstance(row.image, Path) and not row.fault else number
        if key in merged:
            first = merged[key]
            merged[key] = Row(first.source, first.image, (*first.captions, *row.captions), first.label)
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
