"""``mobileclip2 import``: write pictures and captions as shards, or as an evaluation set."""

from __future__ import annotations

import sys
import time
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from mobileclip2.data.importing.evaluation_set import TEMPLATES, import_evaluation_set
from mobileclip2.data.importing.row import Rows
from mobileclip2.data.importing.shards import Imported, import_shards
from mobileclip2.errors import UserError
from mobileclip2.progress import Step, counted, doing

CAPTION_TEMPLATES = ("a photo of a {c}.", "a {c}.", "a picture of a {c}.")
"""captions of a class folder's pictures, in turn"""


def import_pictures(rows: Rows, to: Path, templates: Sequence[str], *, as_evaluation: bool) -> None:
    """Write the rows, and print what was written and what was left out.

    Raises:
        UserError: a template has no placeholder or is not a line of text, the target holds other data, or no row is usable.
    """
    if bad := [template for template in templates if "{c}" not in template]:
        raise UserError(f"--template {bad[0]!r}: no placeholder; write {{c}} where the class name goes")
    for template in templates:
        if any(unicodedata.category(each) in ("Cc", "Cs", "Zl", "Zp") for each in template):
            raise UserError(
                f"--template {template!a}: a line break or another character that is not text; write one line"
            )
    started = time.monotonic()
    with doing(f"importing into {to}"):
        imported = (
            import_evaluation_set(rows, to, templates=templates or TEMPLATES, progress=_show)
            if as_evaluation
            else import_shards(rows, to, templates=templates or CAPTION_TEMPLATES, progress=_show)
        )
    print(summary(imported, time.monotonic() - started))
    if imported.skipped:
        print(f"{imported.skipped.total():,} rows were left out:\n{imported.reasons()}", file=sys.stderr)


def summary(imported: Imported, seconds: float) -> str:
    """Describe an import in one line."""
    shards = f"{imported.shards:,} shard{'s' if imported.shards > 1 else ''}"
    reused = f", {imported.reused:,} of them written before" if imported.reused else ""
    return (
        f"{imported.folder}: {imported.samples:,} samples from {imported.rows:,} rows in {shards}{reused}, "
        f"{seconds:.1f} s"
    )


def _show(step: Step) -> None:
    counted(step.done, step.total or step.done, step.unit)
