from __future__ import annotations

import os
from pathlib import Path

import pytest

import pipelines
from pipelines.instance import instance

SETTINGS = Path(pipelines.__file__ or "").parent / "dagster.yaml"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of Dagster's history, which does not exist yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_a_new_history_has_the_settings_of_the_project(home: Path) -> None:
    with instance() as dagster:
        assert Path(dagster.root_directory) == home and not dagster.telemetry_enabled
    assert (home / "dagster.yaml").read_text() == SETTINGS.read_text()


def test_settings_of_the_user_stay(home: Path) -> None:
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with instance():
        assert (home / "dagster.yaml").read_text() == "telemetry: {enabled: false}\n"


def test_without_a_setting_the_history_is_in_the_working_directory(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAGSTER_HOME")
    with instance() as dagster:
        assert Path(dagster.root_directory) == home.parent / ".dagster" == Path(os.environ["DAGSTER_HOME"])
