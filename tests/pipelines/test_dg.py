"""The ``dg`` command, run in the checkout as Dagster's users run it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from assets.inputs import GROUP
from assets.keys import dagster_key
from mobileclip2.asset_key import AssetKey
from mobileclip2.config.profile import load
from mobileclip2.engine.graph import build_graph
from pipelines.profiles import PROFILES

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    home = tmp_path_factory.mktemp("dagster")
    shutil.copy(ROOT / "pipelines" / "dagster.yaml", home)
    return {**os.environ, "DAGSTER_HOME": str(home), "MOBILECLIP2_PROFILE": str(PROFILES / "demo.yaml")}


@pytest.fixture(scope="module")
def listed(environment):
    done = dg(environment, "list", "defs", "--json")
    assert done.returncode == 0, done.stderr
    return {asset["asset_key"]: asset for asset in json.loads(done.stdout)["assets"]}


def dg(environment, *arguments):
    command = [Path(sys.executable).with_name("dg"), *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_the_definitions_pass_the_check_without_a_warning(environment):
    done = dg(environment, "check", "defs")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All definitions loaded successfully" in done.stdout
    assert not done.stderr


def test_the_definitions_of_a_cluster_pass_the_check(environment, tmp_path):
    profile = tmp_path / "cluster.yaml"
    compute = "compute: {kubernetes: {image: registry.example/mobileclip2:abc}}\n"
    profile.write_text((PROFILES / "tiny.yaml").read_text() + compute)
    done = dg({**environment, "MOBILECLIP2_PROFILE": str(profile)}, "check", "defs")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All definitions loaded successfully" in done.stdout
    assert not done.stderr


def test_a_profile_that_cannot_be_loaded_fails_the_check(environment, tmp_path):
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("name: wrong\nstore: store\nsources: []\n")
    done = dg({**environment, "MOBILECLIP2_PROFILE": str(wrong)}, "check", "defs")
    assert done.returncode != 0
    assert "sources" in done.stdout + done.stderr


def listed_key(key):
    return dagster_key(AssetKey(key)).to_user_string()


def test_every_asset_is_listed(listed):
    graph = build_graph(load(PROFILES / "demo.yaml"))
    inputs = {key for key in listed if key.startswith(f"{GROUP}/")}
    assert set(listed) - inputs == {listed_key(key) for key in graph}
    assert {"inputs/source_shards", "inputs/evaluation_sets", "inputs/lite0_teacher_files"} <= inputs
    for key, asset in graph.items():
        assert set(listed[listed_key(key)]["dependency_keys"]) - inputs == {listed_key(each) for each in asset.upstream}


def test_telemetry_is_off(environment, listed):
    assert not list(Path(environment["DAGSTER_HOME"]).rglob("event.log"))


@pytest.mark.parametrize("profile", ["demo", "dfndr-2b"])
def test_loading_the_definitions_adds_less_than_a_second_to_dagster(profile):
    """Every run loads the definitions. The limit is in seconds of CPU time, to exclude other work on the machine."""
    code = (
        "import time, dagster; start = time.process_time(); import pipelines.definitions;"
        "print(time.process_time() - start)"
    )
    environment = {**os.environ, "MOBILECLIP2_PROFILE": str(PROFILES / f"{profile}.yaml")}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, check=True)
    assert float(done.stdout) < 1
