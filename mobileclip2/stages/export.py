"""Export a student of a pipeline: read it, write it in a format, and add its lineage and model card."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from mobileclip2.engine.external import Folder
from mobileclip2.engine.lineage import LINEAGE
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.engine.trace import lineage_of
from mobileclip2.errors import UserError
from mobileclip2.evaluation.sets import EvaluationSet
from mobileclip2.export import as_open_clip
from mobileclip2.export.parity import inputs
from mobileclip2.export.write import Format, write
from mobileclip2.names import listed
from mobileclip2.stages.load_model import load_image_text
from mobileclip2.stages.model_card import Exported, card
from mobileclip2.store.storage import explained

CARD = "README.md"
CALIBRATION = 128
"""number of images on which int8 ranges are calibrated"""


def export(pipeline: Pipeline, key: str, to: Path, kind: Format, *, int8: bool = False) -> Exported:
    """Write ``student/<name>`` to the new folder ``to``. After an error, the folder does not exist.

    Raises:
        UserError: the student or the format cannot be exported, or the export differs from the trained model.
    """
    if int8 and kind != "onnx":
        raise UserError(f"--int8 goes with --format onnx; {kind} has no int8 form here, omit --int8")
    students: dict[str, str] = {asset.key: asset.name for asset in pipeline.graph.values() if asset.stage == "student"}
    if key not in students:
        raise UserError(f"export: there is no student '{key}'; the profile has {listed(students)}")
    (stored,) = pipeline.read(key)
    image_text = load_image_text(stored, pipeline.inventory)
    with ExitStack() as stack:
        sets = []
        for source in pipeline.profile.evaluation:
            listed_folder = Folder(source.url)
            planned = pipeline.inventory.digest(listed_folder, None)
            opened = stack.enter_context(pipeline.inventory.unchanged(listed_folder, planned))
            sets.append(EvaluationSet(source.name, opened))
        found = inputs(sets, CALIBRATION)
    with _new_folder(to) as folder:
        measured = write(image_text, found, folder, kind, int8=int8, batch=pipeline.profile.batch)
        (folder / LINEAGE).write_bytes(lineage_of(pipeline, key).to_bytes())
        sizes = {path.name: _bytes(path) for path in sorted(folder.iterdir())}
        exported = Exported(to, kind, int8, image_text, measured, sizes, as_open_clip.architecture(image_text))
        (folder / CARD).write_text(card(pipeline, students[key], exported), encoding="utf-8")
    return exported


def _bytes(path: Path) -> int:
    """Return the size of a file, or of all files in a Core ML package."""
    return sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())


@contextmanager
def _new_folder(to: Path) -> Iterator[Path]:
    """Make a temporary folder that is renamed to ``to`` if the block ends without an error.

    Raises:
        UserError: ``to`` exists and is not an empty folder.
        StoreError: the disk is full or not writable.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UserError(f"--to {to}: it exists already; choose a new folder, or remove this one")
    temporary = to.with_name(f".{to.name}.{os.getpid()}.partial")
    try:
        with explained(to):
            temporary.mkdir(parents=True)
            yield temporary
            temporary.replace(to)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
