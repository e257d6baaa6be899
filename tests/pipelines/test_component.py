"""Another Dagster project, which has the component and its own asset that depends on a student."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from assets.keys import dagster_key, library_key
from mobileclip2.asset_key import AssetKey
from mobileclip2.config.profile import load
from mobileclip2.engine.graph import build_graph
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.errors import ProfileError
from pipelines.component import MobileClip2
from tests.pipelines.small import edited

OWN_ASSET = """
import dagster as dg
from mobileclip2.engine.pipeline import Pipeline

@dg.asset(deps=[dg.AssetKey(["tiny", "student.pupil"])])
def own_report(context: dg.AssetExecutionContext, tiny_pipeline: dg.ResourceParam[Pipeline]) -> str:
    (student,) = tiny_pipeline.read("student/pupil")
    event = context.instance.get_latest_materialization_event(dg.AssetKey(["tiny", "student.pupil"]))
    address = event.asset_materialization.metadata["dagster/uri"].value
    assert student.fetch("open_clip_model.safetensors").parent.as_uri() == address
    return address
"""
DEFINITIONS = """
from pathlib import Path

import dagster as dg


@dg.definitions
def defs() -> dg.Definitions:
    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
"""
PROJECT = """
[project]
name = "foreign"
version = "0"

[tool.dg]
directory_type = "project"

[tool.dg.cli]
suppress_warnings = ["project_and_activated_venv_mismatch"]

[tool.dg.project]
root_module = "foreign"
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "foreign" / "defs").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(PROJECT)
    (folder / "foreign" / "definitions.py").write_text(DEFINITIONS)
    for package in ("foreign", "foreign/defs"):
        (folder / package / "__init__.py").touch()
    return folder


@pytest.fixture
def dg_command(project: Path, tmp_path: Path) -> Callable[..., str]:
    """Return a function that runs ``dg`` in the project and returns its output."""
    home = tmp_path / "dagster"
    home.mkdir()

    def run(*arguments: str) -> str:
        command = [Path(sys.executable).with_name("dg"), *arguments]
        environment = {**os.environ, "DAGSTER_HOME": str(home)}
        done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def definitions_in(project: Path, monkeypatch: pytest.MonkeyPatch) -> dg.Definitions:
    monkeypatch.syspath_prepend(project)
    for name in [name for name in sys.modules if name.split(".")[0] == "foreign"]:
        monkeypatch.delitem(sys.modules, name)
    loaded = dg.load_from_defs_folder(path_within_project=project / "foreign")
    assert isinstance(loaded, dg.Definitions)
    return loaded


def add_component(project: Path, folder: str, **attributes: str) -> None:
    (project / "foreign" / "defs" / folder).mkdir()
    content = {"type": "pipelines.component.MobileClip2", "attributes": attributes}
    (project / "foreign" / "defs" / folder / "defs.yaml").write_text(json.dumps(content))


@pytest.mark.slow
def test_a_foreign_project_is_scaffolded_checked_and_listed(project: Path, dg_command: Callable[..., str]) -> None:
    assert "pipelines.component.MobileClip2" in dg_command("list", "components", "--json")
    dg_command("scaffold", "defs", "pipelines.component.MobileClip2", "clip", "--profile", "tiny")
    (project / "foreign" / "defs" / "own.py").write_text(OWN_ASSET)
    dg_command("check", "yaml")
    assert "All definitions loaded successfully" in dg_command("check", "defs")
    listed = {asset["asset_key"]: asset for asset in json.loads(dg_command("list", "defs", "--json"))["assets"]}
    assert listed["own_report"]["dependency_keys"] == ["tiny/student.pupil"]
    assert "tiny/raw_shards" in listed and "tiny/inputs/source_shards" in listed


def test_an_asset_of_the_project_is_materialized_after_a_student(
    project: Path, finished: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_component(project, "clip", profile=str(finished))
    (project / "foreign" / "defs" / "own.py").write_text(OWN_ASSET)
    pipeline = Pipeline(load(finished))
    pipeline.storage.delete_folder("student/pupil")
    job = definitions_in(project, monkeypatch).resolve_implicit_global_asset_job_def()
    selected = [dg.AssetKey(["tiny", "student.pupil"]), dg.AssetKey("own_report")]
    result = job.execute_in_process(instance=instance, asset_selection=selected)
    assert result.success
    order = [event.asset_key for event in result.get_asset_materialization_events()]
    assert order == selected
    assert Path(result.output_for_node("own_report").removeprefix("file://")).is_dir()
    pipeline.forget()
    assert pipeline.is_current("student/pupil")


def test_two_profiles_coexist_in_one_project(
    project: Path, tiny: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two components have the same asset names, and a run of one component uses the profile of that component."""
    add_component(project, "one", profile=str(tiny), key_prefix="one")
    other = tiny.with_name("other.yaml")
    other.write_text(tiny.read_text().replace("store: store", "store: elsewhere"))
    add_component(project, "two", profile=str(other), key_prefix="two")
    definitions = definitions_in(project, monkeypatch)
    graph = build_graph(load(tiny))
    keys = definitions.resolve_all_asset_keys()
    for prefix in ("one", "two"):
        mine = [key for key in keys if key.path[0] == prefix and len(key.path) == 2]
        assert {library_key(key) for key in mine} == set(graph)
    assert {key.asset_key.path[0] for key in definitions.resolve_asset_graph().asset_check_keys} == {"one", "two"}
    job = definitions.resolve_implicit_global_asset_job_def()
    key = dg.AssetKey(["two", "raw_shards"])
    assert job.execute_in_process(instance=instance, asset_selection=[key], partition_key="g00").success
    assert (tiny.parent / "elsewhere" / "raw_shards").is_dir() and not (tiny.parent / "store" / "raw_shards").exists()
    assert instance.fetch_observations(dg.AssetKey(["two", "inputs", "source_shards"]), limit=1).records


def test_the_sensor_reports_stored_assets(
    project: Path, finished: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_component(project, "clip", profile=str(finished), key_prefix="p")
    repository = definitions_in(project, monkeypatch).get_repository_def()
    sensor = repository.get_sensor_def("p_observe_changes")
    context = dg.build_sensor_context(instance=instance, repository_def=repository)
    skipped = sensor(context)
    assert isinstance(skipped, dg.SkipReason) and "reported" in str(skipped.skip_message)
    assert instance.get_latest_materialization_event(dg.AssetKey(["p", "student.pupil"]))
    assert "reported 0 changes" in str(sensor(context).skip_message)
    edited(finished, lambda values: values["views"].update(count=3))
    assert "reload the definitions" in str(sensor(context).skip_message)


def test_the_profile_is_relative_to_the_component(tiny: Path) -> None:
    profile = MobileClip2(profile="tiny.yaml").load_profile(tiny.parent)
    assert profile.file == str(tiny) and profile.key_prefix == "tiny"
    assert dagster_key(AssetKey("student/pupil"), profile) == dg.AssetKey(["tiny", "student.pupil"])
    assert MobileClip2(profile="demo", key_prefix="x").load_profile(tiny.parent).key_prefix == "x"
    with pytest.raises(ProfileError, match="nowhere"):
        MobileClip2(profile="nowhere.yaml").load_profile(tiny.parent)


def test_the_component_imports_no_torch() -> None:
    code = "import sys, pipelines.component; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
