from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import pipelines
from pipelines.instance import instance

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

COUNT = 3

SETTINGS = Path(pipelines.__file__ or "").parent / "dagster.yaml"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of the folder of Dagster's history. The folder does not exist yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_a_new_history_has_the_settings_of_the_project(home: Path) -> None:
    with instance() as dagster:
        assert Path(dagster.root_directory) == home and not dagster.telemetry_enabled
    assert (home / "dagster.yaml").read_text() == SETTINGS.read_text()


def test_user_settings_are_kept(home: Path) -> None:
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with instance():
        assert (home / "dagster.yaml").read_text() == "telemetry: {enabled: false}\n"


def test_without_a_setting_the_history_is_in_the_working_directory(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAGSTER_HOME")
    with instance() as dagster:
        assert Path(dagster.root_directory) == home.parent / ".dagster" == Path(os.environ["DAGSTER_HOME"])


def test_several_processes_can_create_the_home_at_once(tmp_path: Path) -> None:
    environment = {**os.environ, "DAGSTER_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-c", PROGRAM]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, env=environment, **pipes) for _ in range(COUNT)]
    for process in processes:
        process.stdout.readline()
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    errors = [process.communicate()[1] for process in processes]
    assert [(process.returncode, error[-1000:]) for process, error in zip(processes, errors, strict=True)] == [
        (0, "")
    ] * COUNT
    assert (tmp_path / "home" / "dagster.yaml").read_text().startswith("# Dagster's own settings")


def test_make_opens_the_home_before_the_servers_start() -> None:
    recipe = (Path(__file__).parents[2] / "Makefile").read_text().partition("\nui: ")[2].partition("\n\n")[0]
    assert recipe.index("-m pipelines.instance") < recipe.index("dagster dev")
