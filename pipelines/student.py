"""What the commands ``report``, ``latency`` and ``export`` do with a student."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.evaluation.latency import Latency
from mobileclip2.export.write import Format
from mobileclip2.report.gather_student import gather_student, latency_of
from mobileclip2.report.page import write_page
from mobileclip2.report.student import render_student
from mobileclip2.stages.export import export


def student_report(pipeline: Pipeline, name: str, path: Path) -> None:
    """Write the report of a student, and print its results and latency."""
    gathered = gather_student(pipeline, name)
    write_page(render_student(gathered), path)
    table = Table(title=f"{name}, with {gathered.confidence:.0%} intervals")
    for column in ("set", "metric", name, "interval"):
        table.add_column(column, justify="right" if column in {name, "interval"} else "left")
    for row in gathered.rows:
        low, high = row.interval
        table.add_row(row.set, row.metric, f"{row.value:.1%}", f"{low:.1%} – {high:.1%}")
    console = _console()
    console.print(table)
    console.print(_latency_table(name, gathered.latencies[name]))
    console.print(f"report: {path}")


def latency(pipeline: Pipeline, name: str, *, as_json: bool) -> None:
    """Print the latency of a student's towers on this machine."""
    measured = latency_of(pipeline, name)
    if as_json:
        print(json.dumps({"student": name, **asdict(measured)}, indent=1))
    else:
        _console().print(_latency_table(name, measured))


def export_and_show(pipeline: Pipeline, key: str, to: Path, kind: Format, *, int8: bool) -> None:
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
    console = _console()
    console.print(table)
    console.print(f"{written.folder}: {', '.join(written.bytes)}, README.md")


def _latency_table(name: str, measured: Latency) -> Table:
    table = Table(title=f"{name} on {measured.machine}", caption="milliseconds at batch size 1; fp32, reparameterized")
    columns = ("tower", "parameters", "median", "90 %", "99 %", f"a second, {measured.batch} at once")
    for column in columns:
        table.add_column(column, justify="left" if column == "tower" else "right")
    for name, tower in (("image", measured.image), ("text", measured.text)):
        times = [f"{value:.2f}" for value in (tower.p50, tower.p90, tower.p99)]
        table.add_row(name, f"{tower.parameters:,}", *times, f"{tower.throughput:,.0f}")
    return table


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 120, markup=False, emoji=False, highlight=False)
