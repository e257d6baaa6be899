"""``mobileclip2 export``: write a trained student as files that run without this project."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.export.write import Format
from mobileclip2.stages.export import export


def export_and_show(pipeline: Pipeline, key: str, to: Path, kind: Format, *, int8: bool, width: int) -> int:
    """Write the export, and print how closely its outputs match those of the trained model.

    Raises:
        UserError: The student cannot be exported; nothing was written.
    """
    written = export(pipeline, key, to, kind, int8=int8)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("tower", "precision", "compared", "same input", "mean cosine", "1st percentile", "lowest"):
        table.add_column(column, justify="left" if column in {"tower", "precision"} else "right")
    for parity in written.parity:
        cosines = (f"{value:.6f}" for value in (parity.mean, parity.percentile_1, parity.lowest))
        table.add_row(parity.tower, parity.precision, f"{parity.count:,}", f"{parity.same_input:,}", *cosines)
    console = Console(width=width)
    console.print(table)
    console.print(f"{written.folder}: {', '.join(written.bytes)}, README.md", markup=False, highlight=False)
    return 0
