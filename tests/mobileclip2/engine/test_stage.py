from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mobileclip2.config.profile import load
from mobileclip2.engine.graph import CODE_VERSIONS
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.engine.shard_stage import ShardStage
from mobileclip2.engine.stage import load_stage, stage_modules
from mobileclip2.progress import show_activities

BY_SHARD = {
    "raw_shards",
    "augmentations",
    "caption_corpus",
    "synthetic_captions",
    "teacher_embeddings",
    "reinforced_dataset",
    "reinforced_shards",
    "filter_scores",
    "selected_shards",
}


@pytest.mark.parametrize("stage", CODE_VERSIONS)
def test_every_stage_of_the_graph_has_code(stage: str) -> None:
    run = load_stage(stage)
    assert callable(run) and isinstance(run, ShardStage) == (stage in BY_SHARD)


def test_a_module_that_several_assets_need_is_named_once(tiny: Path) -> None:
    graph = Pipeline(load(tiny)).graph
    assets = [graph["student/pupil"], graph["raw_shards"], graph["student/plain"]]
    modules = stage_modules(assets)
    assert [sys.modules[module].run for module in modules] == [load_stage("raw_shards"), load_stage("student")]


def test_the_import_is_announced_because_it_takes_seconds() -> None:
    heard: list[str] = []
    with show_activities(heard.append):
        load_stage("raw_shards")
    assert heard == ["importing", ""]
