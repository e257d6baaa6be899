"""Dagster's code version changes only with the fields that are declared upstream."""

from __future__ import annotations

from pathlib import Path

import pytest

from assets.code_version import code_versions
from mobileclip2.engine import graph
from mobileclip2.engine.graph import build_graph
from mobileclip2.engine.pipeline import Pipeline
from tests.pipelines.small import Change, edited


def changed(tiny: Path, change: Change) -> set[str]:
    before = code_versions(edited(tiny, lambda values: None).graph)
    after = code_versions(edited(tiny, change).graph)
    return {key for key in before if before[key] != after.get(key)}


def test_a_field_changes_everything_downstream(tiny: Path) -> None:
    found = changed(tiny, lambda values: values["captioners"][-1]["generation"].update(top_p=0.5))
    assert {
        "synthetic_captions/second",
        "teacher_embeddings/wide/second",
        "reinforced_dataset",
        "student/pupil",
    } <= found
    assert "evaluation/pupil" in found
    assert not found & {"raw_shards", "captioner/second", "student/plain", "evaluation/plain", "teacher/wide"}


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values.update(device="cpu"),
        lambda values: values["students"][0]["train"].update(log_every=7),
        lambda values: values["evaluation"].append({**values["evaluation"][0], "name": "more"}),
    ],
    ids=["device", "log interval", "evaluation set"],
)
def test_fields_without_effect_on_outputs_keep_the_version(tiny: Path, change: Change) -> None:
    assert changed(tiny, change) == set()


def test_new_code_of_a_stage_changes_everything_downstream(demo: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    before = code_versions(demo.graph)
    monkeypatch.setitem(graph.CODE_VERSIONS, "reinforced_dataset", "another")
    after = code_versions(build_graph(demo.profile))
    assert {key for key in before if before[key] != after[key]} == {
        "reinforced_dataset",
        "student/reinforced",
        "evaluation/reinforced",
    }
    assert after["reinforced_dataset"].startswith("another-")
