"""Rows, spans and failed sections in the output of the GPU benchmark."""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch

from benchmarks._gpu.kernels import covered, profile
from benchmarks._gpu.section import Section
from benchmarks._turns import in_turns
from benchmarks.gpu import markdown
from benchmarks.wheels import IMPORTED, PRESENT, needed

CPU = torch.device("cpu")


def section(tmp_path: Path, seconds: float = 60, device: torch.device = CPU) -> Section:
    return Section("student", device, True, time.time() + seconds, tmp_path / "rows.jsonl")


def rows(tmp_path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]


def test_a_failure_is_recorded_and_the_next_attempt_runs(tmp_path: Path) -> None:
    here = section(tmp_path)
    with here.attempt("first"):
        raise RuntimeError("no kernel")
    with here.attempt("second"):
        raise torch.cuda.OutOfMemoryError("tried to allocate 80 GiB\nmore")
    with here.attempt("third"):
        here.require(1e6)
        raise AssertionError("there was no time for it")
    with here.attempt("fourth"):
        here.found("fourth", "runs")
    found = rows(tmp_path)
    assert [row["what"] for row in found] == ["first", "second", "third", "fourth"]
    assert found[0]["error"] == "RuntimeError: no kernel"
    assert found[1]["error"] == "out of memory: tried to allocate 80 GiB"
    assert str(found[2]["error"]).startswith("left out:")


def test_a_target_is_checked_only_on_a_gpu(tmp_path: Path) -> None:
    section(tmp_path).value("ratio", [0.8, 0.95, 0.99], target=0.9)
    section(tmp_path, device=torch.device("cuda")).value("ratio", [0.8, 0.95, 0.99], target=0.9)
    section(tmp_path, device=torch.device("cuda")).value("ratio", 1.2, target=1.1, at_least=False)
    assert [row["reached"] for row in rows(tmp_path)] == [None, True, False]
    assert rows(tmp_path)[0]["value"] == 0.95


def test_the_table_shows_missed_targets_and_failures() -> None:
    given = [
        {"what": "card", "found": "H100"},
        {"what": "ratio", "value": 1.2, "unit": "", "repeats": 1, "target": 1.1, "at_least": False, "reached": False},
        {"what": "step", "error": "out of memory: 80 | GiB"},
        {"what": "kernels", "lines": ["50% gemm"]},
    ]
    numbers = {
        "command": "c",
        "commit": "d",
        "began": "now",
        "rehearsal": False,
        "sections": {"card": {"state": "done", "seconds": 1.0, "rows": given}},
    }
    table = markdown(numbers)
    assert table.startswith("# H100\n") and "rehearsal" not in table
    assert "| ratio | 1.2 |  | at most 1.1: **not reached** |" in table
    assert "| step | **out of memory: 80 / GiB** |  |  |" in table
    assert "    50% gemm" in table


def test_overlapping_spans_count_once() -> None:
    assert covered([(5, 6), (0, 2), (1, 3), (1, 2)]) == 4
    assert covered([]) == 0


def test_a_profile_lists_the_slowest_kernel_first() -> None:
    x = torch.randn(300, 300)
    found = profile(lambda: [x @ x for _ in range(20)], CPU)
    assert found.kernels[0][0] == "aten::mm" and found.kernels[0][1] == 20
    assert 0 <= found.idle < 1 and found.busy > 0
    assert "aten::mm" in found.lines("a run")[1]


def test_rounds_end_at_the_deadline_and_at_least_one_counts() -> None:
    times = in_turns({"a": lambda: time.sleep(0.01)}, 100, until=time.time() + 0.2)
    assert 1 <= len(times["a"]["wall"]) < 100
    assert len(in_turns({"a": lambda: None}, 100, until=0)["a"]["wall"]) == 1


def test_wheels_exclude_present_packages_and_their_dependencies() -> None:
    packed = set(needed(IMPORTED, PRESENT))
    assert {"open-clip-torch", "pydantic", "pydantic-core", "isal", "ftfy", "wcwidth"} <= packed
    assert not packed & {"torch", "numpy", "pillow", "pyarrow", "triton", "dagster", "boto3"}
    assert "pyarrow" in needed(IMPORTED, ["torch"])
