"""Rehearse the GPU benchmark on a CPU, in a process that can import only the packages of a GPU machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks._gpu import captions, card, checks, evaluation, texts
from benchmarks._gpu.section import Section

ROOT = Path(__file__).parents[2]

ONLY = """
import sys
from importlib.machinery import PathFinder
from importlib.metadata import packages_distributions
from benchmarks.wheels import IMPORTED, PRESENT, needed

there = set(needed(IMPORTED, [])) | set(needed(PRESENT, []))
ours = {"mobileclip2", "benchmarks", "pipelines", "assets", "tests", "demo"}
elsewhere = {
    name
    for name, owners in packages_distributions().items()
    if name not in ours and not there & {owner.lower().replace("_", "-") for owner in owners}
}
for name in [name for name in sys.modules if name.partition(".")[0] in elsewhere]:
    del sys.modules[name]

class Only(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if path is None and name in elsewhere else PathFinder.find_spec(name, path, target)

sys.meta_path = [Only if finder is PathFinder else finder for finder in sys.meta_path]
for name in ("dagster", "pytest", "boto3", "matplotlib", "onnx", "webdataset"):
    assert name in elsewhere, name
from benchmarks.__main__ import main
sys.exit(main())
"""


def command(out: Path, *more: str) -> list[str]:
    return [sys.executable, "-c", ONLY, "gpu", "--device", "cpu", "--size", "small", "--out", str(out), *more]


@pytest.fixture
def environment() -> dict[str, str]:
    # Coverage would start in each process and import a package that is hidden there.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    return {**inherited, "OMP_NUM_THREADS": "1"}


@pytest.mark.long
def test_every_section_runs_with_only_the_packages_of_a_gpu_machine(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    ran = subprocess.run(command(tmp_path, "--minutes", "8"), cwd=ROOT, env=environment, capture_output=True, text=True)
    log = (tmp_path / "log.txt").read_text()
    assert ran.returncode == 0, ran.stdout + ran.stderr[-4000:] + log[-8000:]
    numbers = json.loads((tmp_path / "gpu.json").read_text())
    assert numbers["rehearsal"] is True
    sections = numbers["sections"]
    assert list(sections) == ["card", "checks", "student", "images", "captions", "whole", "texts", "evaluation"]
    for name, section in sections.items():
        assert section["state"] == "done", name
        assert section["rows"] and not [row for row in section["rows"] if "error" in row], name
    targets = {row["what"] for section in sections.values() for row in section["rows"] if "target" in row}
    for words in (
        "step from memory / from shards",
        "step reinforced / plain CLIP",
        "forward / stage",
        "released loop / stage",
        "5 calls of open_clip / ours",
        "ours / bare arithmetic",
        "padded / stage",
        "released generator's shape / ours",
    ):
        assert any(words in what for what in targets), words
    table = (tmp_path / "gpu.md").read_text()
    assert table == ran.stdout.removesuffix("\n")
    assert "A rehearsal" in table and "model FLOP utilisation" in table and "idle" in table
    assert {path.name for path in tmp_path.iterdir()} == {"gpu.json", "gpu.md", "log.txt"}


def test_results_found_before_a_stop_are_written(tmp_path: Path, environment: dict[str, str]) -> None:
    """Stop the command in its second section."""
    running = subprocess.Popen(command(tmp_path), cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    try:
        patience = time.monotonic() + 200
        while not (state := _state(tmp_path)).get("checks", {}).get("rows"):
            assert running.poll() is None and time.monotonic() < patience, state
            time.sleep(0.2)
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 1
    finally:
        running.kill()
    state = _state(tmp_path)
    assert state["card"]["state"] == "done" and state["card"]["rows"]
    assert state["checks"]["state"] == "stopped by a signal" and state["checks"]["rows"]
    assert state["evaluation"]["state"] == "not begun"


def test_sections_that_hang_or_crash_do_not_block_the_next_section(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = f"61.{os.getpid()}"  # no other process of this machine has this command line

    def hangs(section: Section) -> None:
        section.found("first", "before it hangs")
        subprocess.Popen(["sleep", seconds])
        time.sleep(60)

    def dies(section: Section) -> None:
        section.found("first", "before it dies")
        os.abort()

    def raises(section: Section) -> None:
        raise RuntimeError("nobody expected this")

    def runs(section: Section) -> None:
        section.value("last", 1.0)

    for module, run in ((card, runs), (checks, hangs), (texts, dies), (evaluation, raises), (captions, runs)):
        monkeypatch.setattr(module, "run", run)
    monkeypatch.setitem(gpu.SECTIONS, "checks", (20, "GPU tests"))
    # Another test may have used CUDA in this process. A child would then start a new interpreter without these functions.
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: False)
    numbers = gpu.measure(0.5, tmp_path, "cpu", "small", ["card", "checks", "texts", "evaluation", "captions"])
    state = {name: section["state"] for name, section in numbers["sections"].items()}
    assert state["card"] == state["captions"] == "done"
    assert state["checks"] == "out of time"
    assert state["texts"] == "failed: exit code -6, see log.txt"
    assert state["evaluation"] == "failed: exit code 1, see log.txt"
    for name in ("checks", "texts"):
        assert [row["what"] for row in numbers["sections"][name]["rows"] if row["what"] != "size"] == ["first"]
    assert "nobody expected this" in (tmp_path / "log.txt").read_text()
    assert not gpu.holds(numbers)
    left = subprocess.run(["pgrep", "-f", f"^sleep {seconds}$"], capture_output=True, text=True).stdout
    assert not left, "a process that a section started goes on"


def _state(out: Path) -> dict[str, dict[str, object]]:
    try:
        return dict(json.loads((out / "gpu.json").read_text())["sections"])
    except FileNotFoundError:
        return {}
