"""Processes that open a fresh Dagster home together neither see half-made databases nor migrate twice."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
from pipelines.instance import instance
print(flush=True)
sys.stdin.readline()
with instance() as dagster:
    dagster.get_runs(limit=1)
    assert dagster.event_log_storage.get_maximum_record_id() is None
    dagster.all_instigator_state()
"""


def test_processes_open_a_fresh_home_together(tmp_path: Path) -> None:
    environment = {**os.environ, "DAGSTER_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-c", PROGRAM]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, env=environment, **pipes) for _ in range(6)]
    for process in processes:
        process.stdout.readline()
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    errors = [process.communicate()[1] for process in processes]
    assert [(process.returncode, error[-1000:]) for process, error in zip(processes, errors, strict=True)] == [
        (0, "")
    ] * 6
    assert (tmp_path / "home" / "dagster.yaml").read_text().startswith("# Dagster's own settings")


def test_make_opens_the_home_before_the_servers_start() -> None:
    recipe = (Path(__file__).parents[2] / "Makefile").read_text().partition("\nui: ")[2].partition("\n\n")[0]
    assert recipe.index("-m pipelines.instance") < recipe.index("dagster dev")
