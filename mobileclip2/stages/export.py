"""Export a student of a pipeline: read it, write it in a format, and add its lineage and model card."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mobileclip2.engine.lineage import LINEAGE
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.engine.source_inventory import local_folder
from mobileclip2.engine.trace import lineage_of
from mobileclip2.errors import UserError
from mobileclip2.evaluation.sets import EvaluationSet
from mobileclip2.export import as_open_clip
from mobileclip2.export.parity import Parity, inputs
from mobileclip2.export.write import Format, write
from mobileclip2.stages.load_model import load_image_text
from mobileclip2.stages.model_card import Exported, card
from mobileclip2.store.storage import explain

CARD = "README.md"
CALIBRATION = 128
"""images on which the ranges of int8 are measured"""


@dataclass(frozen=True)
class Export:
    """What was written where, and how near it is to what was trained."""

    folder: Path
    parity: list[Parity]
    bytes: dict[str, int]
    """by file or package"""


def export(pipeline: Pipeline, key: str, to: Path, kind: Format, *, int8: bool = False) -> Export:
    """Write ``student/<name>`` as the new folder ``to``, whole or not at all.

    Raises:
        UserError: it cannot be exported so, or the result is not what was trained; nothing is written then.
    """
    if int8 and kind != "onnx":
        raise UserError(f"--int8 goes with --format onnx; {kind} has no int8 form here, leave it out")
    if not key.startswith("student/") or key not in pipeline.graph:
        known = [name for name in pipeline.graph if name.startswith("student/")]
        raise UserError(f"export: there is no student '{key}'; the profile has {', '.join(known) or 'none'}")
    (stored,) = pipeline.read(key)
    image_text = load_image_text(stored, pipeline.contents)
    sets = [
        EvaluationSet(source.name, Path(local_folder(pipeline.profile.locate(source.url))))
        for source in pipeline.profile.evaluation
    ]
    found = inputs(sets, CALIBRATION)
    with _new_folder(to) as folder:
        measured = write(image_text, found, folder, kind, int8=int8, batch=pipeline.profile.batch)
        (folder / LINEAGE).write_bytes(lineage_of(pipeline, key).to_bytes())
        sizes = {path.name: _bytes(path) for path in sorted(folder.iterdir())}
        exported = Exported(kind, int8, image_text, measured, sizes, as_open_clip.architecture(image_text))
        (folder / CARD).write_text(card(pipeline, key, exported), encoding="utf-8")
    return Export(to, measured, sizes)


def _bytes(path: Path) -> int:
    """Of a file, or of all in a folder: a Core ML package is one."""
    return sum(each.stat().st_size for each in (path, *path.rglob("*")) if each.is_file())


@contextmanager
def _new_folder(to: Path) -> Iterator[Path]:
    """Make a folder beside ``to`` that replaces it if the block ends without an error.

    Raises:
        UserError: there is something already.
        StoreError: the disk is full or cannot be written.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UserError(f"--to {to}: it exists already; name a new folder, or remove this one")
    temporary = to.with_name(f".{to.name}.{os.getpid()}.partial")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.replace(to)
    except OSError as error:
        explain(error, str(to))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
