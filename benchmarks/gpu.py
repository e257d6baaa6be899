"""Measure all GPU numbers in the given minutes: tests, students, embeddings, captions, evaluation, the whole step.

``python -m benchmarks gpu --minutes 9 --out DIR`` writes ``gpu.json``, ``gpu.md`` and ``log.txt`` into ``DIR``.
Sections run one after the other, the most important first. Each section runs in its own process. If a section fails,
hangs or runs out of memory, this is recorded and the next section begins. Each section has a share of the minutes.
Unused time goes to the later sections. The files are rewritten after each result, so that a kill does not lose results.
Without a GPU, or with ``--size small``, the same code takes a few steps of tiny models. This is a rehearsal, and its
numbers have no meaning.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from benchmarks._turns import Numbers

SECTIONS = {
    "card": (10, "The card"),
    "checks": (35, "1. GPU tests"),
    "student": (170, "2. A student's step"),
    "images": (85, "3. Image embeddings of a ViT-L/14 teacher"),
    "captions": (80, "4. Captions of coca_ViT-L-14"),
    "whole": (95, "5. From raw shard to reinforced shard"),
    "texts": (20, "5. Text embeddings"),
    "evaluation": (25, "5. Evaluation"),
}
"""Weight of the time share, and title. The sections run in this order."""

LAST = 5.0
"""Seconds reserved at the end to write the files."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float, default=9.0, help="all of it ends within these")
    parser.add_argument("--out", type=Path, required=True, help="folder for gpu.json, gpu.md and log.txt")
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto")
    parser.add_argument("--size", choices=("full", "small"), help="by default full on a GPU, small without one")
    parser.add_argument("--sections", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))


def measure(minutes: float, out: Path, device: str, size: str | None, sections: list[str]) -> Numbers:
    began = time.time()
    ends = began + 60 * minutes - LAST
    out.mkdir(parents=True, exist_ok=True)
    rows = out / "rows.jsonl"
    rows.write_text("")
    (out / "log.txt").write_text("")
    for name in sections:
        importlib.import_module(f"benchmarks._gpu.{name}")  # once for all children; this must not initialize CUDA
    from benchmarks._gpu.card import commit

    numbers: Numbers = {
        "command": "python -m benchmarks " + " ".join(sys.argv[1:]),
        "commit": commit(),
        "began": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(began)),
        "minutes": minutes,
        "rehearsal": None,
        "sections": {name: {"state": "not begun", "seconds": 0.0, "rows": []} for name in sections},
    }
    stopped: list[int] = []
    before = {
        each: signal.signal(each, lambda number, _: stopped.append(number)) for each in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        for name in sections:
            left = sum(SECTIONS[each][0] for each in sections[sections.index(name) :])
            until = time.time() + (ends - time.time()) * SECTIONS[name][0] / left
            if stopped:
                break
            if until - time.time() < 1:
                numbers["sections"][name]["state"] = "no time left"
                continue
            _one(name, device, size, until, out, numbers, stopped)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        numbers["seconds"] = time.time() - began
        write(numbers, out)
        rows.unlink(missing_ok=True)
    return numbers


def _one(
    name: str, device: str, size: str | None, until: float, out: Path, numbers: Numbers, stopped: list[int]
) -> None:
    """Run a section and record its results while it runs."""
    record = numbers["sections"][name]
    began = time.time()
    record |= {"state": "running", "allowed": until - began}
    process = multiprocessing.get_context("fork").Process(target=child, args=(name, device, size, until, out))
    process.start()
    seen = -1
    while True:
        process.join(0.5)
        ended = not process.is_alive()
        record["seconds"] = time.time() - began
        lines = _lines(out)
        if len(lines) != seen:
            seen = len(lines)
            _take_in(lines, numbers)
            write(numbers, out)
        if ended:
            _kill(process)
            break
        if time.time() > until + 1 or stopped:
            _kill(process)
            record["state"] = "stopped by a signal" if stopped else "out of time"
    if record["state"] == "running":
        record["state"] = "done" if process.exitcode == 0 else f"failed: exit code {process.exitcode}, see log.txt"
    _take_in(_lines(out), numbers)
    write(numbers, out)


def _lines(out: Path) -> list[bytes]:
    """Return the rows that are completely written."""
    return (out / "rows.jsonl").read_bytes().split(b"\n")[:-1]


def _take_in(lines: list[bytes], numbers: Numbers) -> None:
    for record in numbers["sections"].values():
        record["rows"] = []
    for line in lines:
        row = json.loads(line)
        if row.get("what") == "size":
            numbers["rehearsal"] = row["found"] == "small"
        elif row["section"] in numbers["sections"]:
            numbers["sections"][row.pop("section")]["rows"].append(row)


def _kill(process: multiprocessing.process.BaseProcess) -> None:
    """Kill a section and its loader processes, including those that it left behind."""
    assert process.pid
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.kill()


def child(name: str, device: str, size: str | None, until: float, out: Path) -> None:
    with suppress(PermissionError):  # after a restart this process is already the leader
        os.setsid()
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_DFL)
    parent = os.getppid()

    def watch() -> None:
        """End this process group if the parent was killed."""
        while os.getppid() == parent:
            time.sleep(1)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    log = os.open(out / "log.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    print(f"== {name}", flush=True)
    os.environ["HF_HUB_OFFLINE"] = "1"
    if torch.cuda._is_in_bad_fork():  # an import initialized CUDA before the fork
        os.execv(
            sys.executable, [sys.executable, "-m", "benchmarks._gpu", name, device, size or "", str(until), str(out)]
        )

    from benchmarks._gpu.section import Section
    from mobileclip2.models.device import choose_device

    place = choose_device(device)
    small = (size or ("full" if place.type == "cuda" else "small")) == "small"
    section = Section(name, place, small, until, out / "rows.jsonl")
    if name == "card" or small:
        section.found("size", "small" if small else "full")
    try:
        importlib.import_module(f"benchmarks._gpu.{name}").run(section)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    sys.stdout.flush()
    os._exit(0)  # threads that a library leaves running must not delay the next section


def write(numbers: Numbers, out: Path) -> None:
    """Write both files. Each file is replaced atomically."""
    for name, text in (("gpu.json", json.dumps(numbers, indent=1) + "\n"), ("gpu.md", markdown(numbers))):
        unfinished = out / f".{name}.part"
        unfinished.write_text(text)
        unfinished.replace(out / name)


def markdown(numbers: Numbers) -> str:
    card = next((row["found"] for row in _rows(numbers, "card") if row["what"] == "card"), "unknown card")
    lines = [
        f"# {card}",
        "",
        f"`{numbers['command']}`, {numbers['began']}, commit {numbers['commit']}",
        "",
    ]
    if numbers["rehearsal"]:
        lines += ["**A rehearsal with tiny models: the numbers say nothing.**", ""]
    for name, record in numbers["sections"].items():
        allowed = f" of {record['allowed']:.0f}" if "allowed" in record else ""
        lines += [f"## {SECTIONS[name][1]}", "", f"{record['state']}, {record['seconds']:.0f}{allowed} s", ""]
        if table := [row for row in record["rows"] if "lines" not in row]:
            lines += ["| what | measured | range | target |", "|---|--:|---|---|"]
            lines += [f"| {row['what']} | {_measured(row)} | {_range(row)} | {_target(row)} |" for row in table]
            lines.append("")
        for row in record["rows"]:
            if "lines" in row:
                lines += [f"{row['what']}:", "", *(f"    {line}" for line in row["lines"]), ""]
    return "\n".join(lines)


def _rows(numbers: Numbers, name: str) -> list[dict[str, Any]]:
    return list(numbers["sections"].get(name, {}).get("rows", []))


def _measured(row: dict[str, Any]) -> str:
    if "value" in row:
        return f"{_number(row['value'])} {row['unit']}".strip()
    text = row.get("found") or f"**{row['error']}**"
    return str(text).replace("|", "/").replace("\n", " ")


def _range(row: dict[str, Any]) -> str:
    if "lowest" not in row:
        return ""
    return f"{_number(row['lowest'])} to {_number(row['highest'])}, {row['repeats']} times"


def _target(row: dict[str, Any]) -> str:
    if "target" not in row:
        return ""
    said = f"at {'least' if row['at_least'] else 'most'} {row['target']:g}"
    return said + {True: ": reached", False: ": **not reached**", None: ", on a GPU"}[row["reached"]]


def _number(value: float) -> str:
    if value != 0 and (abs(value) < 1e-3 or abs(value) >= 1e7):
        return f"{value:.2e}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def show(numbers: Numbers) -> str:
    return markdown(numbers)


def holds(numbers: Numbers) -> bool:
    """Return whether every section is done without an error."""
    return all(
        record["state"] == "done" and not any("error" in row for row in record["rows"])
        for record in numbers["sections"].values()
    )
