"""``dvc.yaml`` must match the asset graph."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from mobileclip2.config.profile import load
from mobileclip2.engine.graph import build_graph
from mobileclip2.ledger.dvc import command
from mobileclip2.ledger.paths import asset_file, params_file, stage_name
from mobileclip2.ledger.stages import files_in_git, pipeline_text
from pipelines.profiles import profile_path
from tests.filtered import make_filtered

EDGES = {
    "filter_scores-clean": ["raw_shards", "teacher/wide"],
    "selection": ["filter_scores/clean", "teacher/wide"],
    "selected_shards": ["raw_shards", "selection"],
    "augmentations": ["selected_shards"],
    "student-plain": ["selected_shards"],
}
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def demo():
    return load(profile_path("demo"))


@pytest.fixture(scope="module")
def graph(demo):
    return build_graph(demo)


@pytest.fixture(scope="module")
def stages(demo, graph):
    return yaml.safe_load(pipeline_text(demo, graph))["stages"]


def test_the_committed_dvc_file_is_up_to_date(demo, graph):
    assert (ROOT / "dvc.yaml").read_text() == pipeline_text(demo, graph), "run 'mobileclip2 ledger' and commit dvc.yaml"


def test_every_asset_is_a_stage_and_every_edge_a_dependency(demo, graph, stages):
    assert list(stages) == [stage_name(key) for key in graph]
    for asset in graph.values():
        stage = stages[stage_name(asset.key)]
        read = [dep for dep in stage.get("deps", []) if dep.startswith("ledger/")]
        assert read == [asset_file(demo, upstream) for upstream in asset.upstream]
        assert asset_file(demo, asset.key) in {name for out in stage["outs"] for name in out}
        assert stage["cmd"] == f"mobileclip2 run {asset.key} --profile pipelines/profiles/demo.yaml"


def test_a_filter_and_its_selection_are_stages(tmp_path):
    profile = load(make_filtered(tmp_path, keep=0.5, decontaminate=["shapes"]))
    profile = profile.model_copy(update={"ledger": "."})
    stages = yaml.safe_load(pipeline_text(profile, build_graph(profile)))["stages"]
    read = {name: {asset_file(profile, key) for key in keys} for name, keys in EDGES.items()}
    for name, files in read.items():
        assert files <= set(stages[name]["deps"]), name
    assert any(dep.endswith("evaluation/shapes") for dep in stages["selection"]["deps"])


def test_local_data_is_a_dependency_of_its_readers(stages):
    assert stages["raw_shards"]["deps"] == ["demo/shards"]
    assert stages["caption_corpus-labels"]["deps"] == ["demo/corpus/labels"]
    assert "demo/evaluation/emoji-861" in stages["student-plain"]["deps"]
    assert "demo/evaluation/emoji-retrieval" not in stages["student-plain"]["deps"]
    assert "demo/evaluation/emoji-retrieval" in stages["evaluation-lite0"]["deps"]


def test_remote_and_external_data_are_not_dependencies(demo):
    source = demo.sources[0]
    for url in ("s3://bucket/shards", "../../../elsewhere"):
        moved = demo.model_copy(update={"sources": (source.model_copy(update={"url": url}),)})
        stages = yaml.safe_load(pipeline_text(moved, build_graph(moved)))["stages"]
        assert "deps" not in stages["raw_shards"]


def test_ledger_files_have_unique_paths(demo, graph):
    files = [params_file(demo), *(path for asset in graph.values() for path in files_in_git(demo, asset).values())]
    assert len(set(files)) == len(files) > len(graph) + 1
    assert all(file.startswith("ledger/demo/") for file in files)


@pytest.mark.slow
def test_dvc_sees_the_same_edges(demo, graph, tmp_path):
    subprocess.run([command(), "init", "--quiet", "--no-scm"], cwd=tmp_path, check=True)
    (tmp_path / "dvc.yaml").write_text(pipeline_text(demo, graph))
    dot = subprocess.run([command(), "dag", "--dot"], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    edges = set(re.findall(r'^"([\w-]+)" -> "([\w-]+)";$', dot, re.M))
    named = {key: stage_name(key) for key in graph}
    assert edges == {(named[upstream], named[asset.key]) for asset in graph.values() for upstream in asset.upstream}
    assert len(edges) > 30
