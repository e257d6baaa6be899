from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mobileclip2.config.profile import load
from mobileclip2.engine.lineage import LINEAGE, read_lineage
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.engine.trace import lineage_of
from mobileclip2.errors import UserError


def test_each_input_of_a_node_is_a_node_or_a_hash(materialized: Callable[..., Pipeline]) -> None:
    found = lineage_of(materialized("teacher_embeddings/wide/image"), "teacher_embeddings/wide/image")
    assert {node.asset for node in found.nodes.values()} == {
        "teacher_embeddings/wide/image",
        "teacher/wide",
        "raw_shards",
        "augmentations",
    }
    nodes = found.nodes.values()
    view = next(node for node in nodes if node.asset == "augmentations" and node.part == "view-1")
    assert view.made_from == {"raw_shards": "raw_shards:whole@g00"}
    weights = next(node for node in nodes if node.asset == "teacher/wide").made_from["weights"]
    assert weights not in found.nodes and len(weights) >= 16


def test_inputs_come_before_the_outputs_made_from_them(materialized: Callable[..., Pipeline]) -> None:
    found = lineage_of(materialized("teacher_embeddings/wide/image"), "teacher_embeddings/wide/image")
    seen: set[str] = set()
    for name, node in found.nodes.items():
        assert {value for value in node.made_from.values() if value in found.nodes} <= seen
        seen.add(name)


def test_the_lineage_file_of_a_checkpoint_equals_the_traced_lineage(materialized: Callable[..., Pipeline]) -> None:
    pipeline = materialized("teacher/wide")
    (stored,) = pipeline.read("teacher/wide")
    assert read_lineage(stored.fetch(LINEAGE)) == lineage_of(pipeline, "teacher/wide")


def test_an_asset_that_is_not_materialized_has_no_lineage(tiny: Path) -> None:
    with pytest.raises(UserError, match="raw_shards: not materialized yet"):
        lineage_of(Pipeline(load(tiny)), "raw_shards")


@pytest.mark.parametrize("content", ["{", "[]", '{"asset": "student/x", "nodes": {}}'])
def test_a_file_without_the_lineage_of_its_asset_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / LINEAGE).write_text(content)
    with pytest.raises(UserError, match=r"not a lineage file; pass the lineage\.json beside a checkpoint"):
        read_lineage(tmp_path / LINEAGE)
