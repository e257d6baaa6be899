"""Memory and rate of ``mobileclip2 import`` by number of rows: a Parquet table with pictures, and a CSV with paths.

Each import runs in its own process, forked from one with all modules imported. The memory growth of that process
counts. The pictures are JPEGs of 1 to 2 kB. The shards of a finished import are deleted before the next one.
"""

from __future__ import annotations

import argparse
import csv
import io
import multiprocessing
import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.memory import status
from mobileclip2.data.importing.open_rows import open_rows
from mobileclip2.data.importing.shards import import_shards
from mobileclip2.errors import UserError

DISTINCT = 500
"""Number of different pictures. Rows use them in turn, because drawing a million takes longer than importing them."""
ROWS = (10_000, 100_000)
ALLOWED = 24.0
"""MB by which the peak may rise from the fewest rows to the most. Allocators alone vary by about this much."""
ROW_GROUP = 1000


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, nargs="+", default=list(ROWS), help="numbers of rows, in ascending order")


def measure(rows: list[int]) -> dict[str, Any]:
    found: dict[str, dict[int, dict[str, float]]] = {}
    pictures = [picture(number) for number in range(DISTINCT)]
    for kind, write in (("parquet", write_parquet), ("csv", write_csv)):
        for count in rows:
            with tempfile.TemporaryDirectory() as folder:
                table = write(Path(folder), count, pictures)
                fork = multiprocessing.get_context("fork")
                queue = fork.SimpleQueue()
                process = fork.Process(target=imported, args=(table, Path(folder) / "shards", queue))
                process.start()
                process.join()
                if process.exitcode:
                    raise UserError(f"the import of {count:,} rows of {kind} failed")
                found.setdefault(kind, {})[count] = queue.get()
                shutil.rmtree(Path(folder) / "shards")
    sizes = [len(data) for data in pictures]
    return {"bytes": [min(sizes), max(sizes)], "imports": found}


def picture(number: int) -> bytes:
    """A JPEG of 1 to 2 kB."""
    choose = random.Random(number)
    small = Image.frombytes("RGB", (6, 6), choose.randbytes(108))
    buffer = io.BytesIO()
    small.resize((64, 64), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def write_parquet(folder: Path, rows: int, pictures: list[bytes]) -> Path:
    schema = pa.schema([("image", pa.binary()), ("caption", pa.string())])
    path = folder / "table.parquet"
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, ROW_GROUP):
            numbers = range(start, min(start + ROW_GROUP, rows))
            columns = {
                "image": [pictures[number % DISTINCT] for number in numbers],
                "caption": [f"a picture of thing number {number}" for number in numbers],
            }
            writer.write_table(pa.table(columns, schema))
    return path


def write_csv(folder: Path, rows: int, pictures: list[bytes]) -> Path:
    (folder / "pictures").mkdir()
    for number, data in enumerate(pictures):
        (folder / "pictures" / f"{number}.jpg").write_bytes(data)
    path = folder / "table.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["filepath", "caption"])
        writer.writerows(
            (f"pictures/{number % DISTINCT}.jpg", f"a picture of thing number {number}") for number in range(rows)
        )
    return path


def imported(table: Path, folder: Path, queue: Any) -> None:
    before, started = status("VmRSS"), time.monotonic()
    done = import_shards(open_rows(table), folder)
    seconds = time.monotonic() - started
    assert done.samples == done.rows
    queue.put({"megabytes": status("VmHWM") - before, "peak": status("VmHWM"), "rows_per_second": done.rows / seconds})


def rises(numbers: dict[str, Any]) -> dict[str, float]:
    """Return the MB by which the peak rises from the fewest rows to the most, by kind."""
    found = {}
    for kind, by_rows in numbers["imports"].items():
        growth = list(by_rows.values())
        first, last = growth[0], growth[-1]
        found[kind] = last["megabytes"] - first["megabytes"]
    return found


def holds(numbers: dict[str, Any]) -> bool:
    return max(rises(numbers).values()) <= ALLOWED


def show(numbers: dict[str, Any]) -> str:
    low, high = numbers["bytes"]
    lines = [
        f"pictures of {low:,} to {high:,} bytes",
        f"{'':10}{'rows':>12}{'MB more':>10}{'MB peak':>10}{'rows/s':>10}",
    ]
    for kind, by_rows in numbers["imports"].items():
        for count, each in by_rows.items():
            cells = f"{each['megabytes']:10.1f}{each['peak']:10.1f}{each['rows_per_second']:10.0f}"
            lines.append(f"{kind:10}{count:12,}{cells}")
    for kind, rise in rises(numbers).items():
        lines.append(f"{kind}: the peak rises by {rise:.1f} MB from the fewest rows to the most")
    return "\n".join(lines)
