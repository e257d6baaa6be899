import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from assets.inputs import GROUP
from assets.keys import dagster_key, library_key
from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline
from pipelines.definitions import definitions_of
from pipelines.profiles import PROFILES

NAMES = sorted(path.stem for path in PROFILES.glob("*.yaml"))


@pytest.fixture(params=NAMES)
def pipeline(request) -> Pipeline:
    return Pipeline(load(PROFILES / f"{request.param}.yaml"))


def test_the_dagster_graph_matches_the_profile(pipeline):
    graph = definitions_of(pipeline.profile).resolve_asset_graph()
    assert {library_key(key) for key in graph.materializable_asset_keys} == set(pipeline.graph)
    for asset in pipeline.graph.values():
        node = graph.get(dagster_key(asset.key))
        parents = {library_key(key) for key in node.parent_keys if key.path[0] != GROUP}
        assert parents == set(asset.upstream)
        assert node.description and node.owners and node.kinds and node.code_version
        assert node.is_partitioned == (asset.grouped or asset.by_slice)


def test_a_selection_string_is_parsed(pipeline):
    """Dagster's parser is generated for one antlr version. An older antlr that another package requires breaks it."""
    graph = definitions_of(pipeline.profile).resolve_asset_graph()
    selected = dg.AssetSelection.from_string('key:"raw_shards" or +key:"augmentations"').resolve(graph)
    assert {key.to_user_string() for key in selected} == {"raw_shards", "augmentations"}


def test_cluster_steps_run_in_pods_with_retries(tmp_path):
    profile = tmp_path / "profile.yaml"
    profile.write_text((PROFILES / "tiny.yaml").read_text() + "\ncompute: {kubernetes: {image: i}}\n")
    found = definitions_of(load(profile))
    assert found.executor.name == "k8s"
    policies = {
        op.retry_policy.max_retries for asset in found.assets if asset.key.path[0] != GROUP for op in [asset.op]
    }
    assert policies == {3}
    here = definitions_of(load(PROFILES / "tiny.yaml"))
    assert here.executor.name == "in_process" and not any(
        asset.op.retry_policy for asset in here.assets if asset.key.path[0] != GROUP
    )


def test_importing_the_code_location_does_not_read_the_profile():
    environment = {**os.environ, "MOBILECLIP2_PROFILE": "nothing.yaml"}
    load_it = "import pipelines.definitions as location; location.defs()"
    imported = subprocess.run([sys.executable, "-c", load_it.partition(";")[0]], env=environment, check=False)
    assert imported.returncode == 0
    loaded = subprocess.run(
        [sys.executable, "-c", load_it], env=environment, capture_output=True, text=True, check=False
    )
    assert loaded.returncode and "nothing.yaml" in loaded.stderr


def test_loading_the_definitions_imports_no_heavy_package():
    code = (
        "import sys, pipelines.component, pipelines.definitions as location; location.defs();"
        "sys.exit(', '.join({'numpy', 'pyarrow', 'torch', 'PIL', 'matplotlib'} & set(sys.modules)) or 0)"
    )
    environment = {**os.environ, "MOBILECLIP2_PROFILE": "demo"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert not done.returncode, done.stderr


def test_the_documented_profiles_exist():
    assert {"demo", "tiny", "dfndr-12m", "dfndr-2b"} <= set(NAMES)
    assert Path(PROFILES).is_dir()
