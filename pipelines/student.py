"""What the commands ``report``, ``latency`` and ``export`` do with a student."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.evaluation.latency import Latency
from mobileclip2.export.write import Format
from mobileclip2.report.gather_student import gather_student, latency_of
from mobileclip2.report.page import write_page
from mobileclip2.report.student import render_student
from mobileclip2.stages.export import export
from pipelines.tables import new_table, show


def student_report(pipeline: Pipeline, name: str, path: Path) -> None:
    """Write the report of a student, and print its results and latency."""
    gathered = gather_student(pipeline, name)
    write_page(render_student(gathered), path)
    title = f"{name}, with {gathered.confidence:.0%} intervals"
    table = new_table("set", "metric", name, "interval", right=(name, "interval"), title=title)
    for row in gathered.rows:
        low, high = row.interval
        table.add_row(row.set, row.metric, f"{row.value:.1%}", f"{low:.1%} – {high:.1%}")
    show(table)
    show(_latency_table(name, gathered.latencies[name]))
    show(f"report: {path}")


def latency(pipeline: Pipeline, name: str, *, as_json: bool) -> None:
    """Print the latency of a student's towers on this machine."""
    measured = latency_of(pipeline, name)
    if as_json:
        print(json.dumps({"student": name, **asdict(measured)}, indent=1))
    else:
        show(_latency_table(name, measured))


def export_and_show(pipeline: Pipeline, key: str, to: Path, kind: Format, *, int8: bool) -> None:
    """Write the export, and print how closely its outputs match those of the trained model.

    Raises:
        UserError: The student cannot be exported; nothing was written.
    """
    written = export(pipeline, key, to, kind, int8=int8)
    numbers = ("compared", "same input", "mean cosine", "1st percentile", "lowest")
    table = new_table("tower", "precision", *numbers, right=numbers)
    for parity in written.parity:
        cosines = (f"{value:.6f}" for value in (parity.mean, parity.percentile_1, parity.lowest))
        table.add_row(parity.tower, parity.precision, f"{parity.count:,}", f"{parity.same_input:,}", *cosines)
    show(table)
    show(f"{written.folder}: {', '.join(written.bytes)}, README.md")


def _latency_table(name: str, measured: Latency) -> Table:
    numbers = ("parameters", "median", "90 %", "99 %", f"a second, {measured.batch} at once")
    title, caption = f"{name} on {measured.machine}", "milliseconds at batch size 1; fp32, reparameterized"
    table = new_table("tower", *numbers, right=numbers, title=title, caption=caption)
    for name, tower in (("image", measured.image), ("text", measured.text)):
        times = [f"{value:.2f}" for value in (tower.p50, tower.p90, tower.p99)]
        table.add_row(name, f"{tower.parameters:,}", *times, f"{tower.throughput:,.0f}")
    return table
