"""``mobileclip2 export``: a trained student for others to run."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.export.write import Format
from mobileclip2.stages.export import export


def export_and_show(pipeline: Pipeline, key: str, to: Path, kind: Format, *, int8: bool, width: int) -> int:
    """Write the export, and print how near it is to the trained model.

    Raises:
        UserError: nothing was written.
    """
    written = export(pipeline, key, to, kind, int8=int8)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("tower", "precision", "compared", "same input", "mean cosine", "1st percentile", "lowest"):
        table.add_column(name, justify="left" if name in {"tower", "precision"} else "right")
    for each in written.parity:
        cosines = (f"{value:.6f}" for value in (each.mean, each.percentile_1, each.lowest))
        table.add_row(each.tower, each.precision, f"{each.count:,}", f"{each.same_input:,}", *cosines)
    console = Console(width=width)
    console.print(table)
    console.print(f"{written.folder}: {', '.join(written.bytes)}, README.md", markup=False, highlight=False)
    return 0
