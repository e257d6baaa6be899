"""Test why an output is computed, on the assets of the tiny profile that need no model.

``test_plan`` tests the other assets.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from mobileclip2.config.profile import load
from mobileclip2.engine import graph
from mobileclip2.engine.graph import Input
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.engine.plan import plan, rows, selected
from mobileclip2.engine.staleness import field_changes
from mobileclip2.errors import UserError

CHEAP = ["augmentations", "caption_corpus/clean"]


@pytest.fixture
def pipeline(tiny: Path) -> Pipeline:
    made = Pipeline(load(tiny))
    materialize(made)
    return made


def materialize(pipeline: Pipeline) -> None:
    for group in pipeline.profile.group_names:
        pipeline.materialize("raw_shards", group)
        pipeline.materialize("augmentations", group)
    pipeline.materialize("caption_corpus/clean")


def with_views(pipeline: Pipeline, views: str) -> Pipeline:
    profile = Path(pipeline.profile.folder) / "tiny.yaml"
    profile.write_text(pipeline.profile.text.replace("{count: 2, seed: 1}", views))
    return Pipeline(load(profile))


def why(pipeline: Pipeline, only: list[str] = CHEAP) -> dict[tuple[str, str, str | None], tuple[str, ...]]:
    return {(item.asset, item.slice, item.group): item.reasons for item in plan(pipeline, only).items}


def test_every_part_is_new_in_an_empty_store(tiny: Path) -> None:
    found = why(Pipeline(load(tiny)))
    groups = ("g00", "g01")
    assert found == {
        **{("raw_shards", "whole", group): ("new",) for group in groups},
        **{("augmentations", f"view-{n}", group): ("new", "upstream raw_shards") for group in groups for n in (0, 1)},
        ("caption_corpus/clean", "whole", None): ("new",),
    }


def test_existing_parts_are_reused_and_counted(pipeline: Pipeline) -> None:
    assert (plan(pipeline, CHEAP).items, plan(pipeline, CHEAP).reused) == ((), 2 + 4 + 1)
    changed = with_views(pipeline, "{count: 3, seed: 1}")
    assert why(changed) == {("augmentations", "view-2", group): ("new",) for group in ("g00", "g01")}
    assert plan(changed, CHEAP).reused == 2 + 4 + 1
    assert plan(changed, CHEAP).pairs == [("augmentations", "g00"), ("augmentations", "g01")]
    (row,) = rows(plan(changed, CHEAP))
    assert (row.asset, row.groups, row.slices, row.reasons) == ("augmentations", ("g00", "g01"), ("view-2",), ("new",))
    assert row.cost == plan(changed, CHEAP).cost and row.cost.samples == 11 + 12


def test_reasons_compare_with_the_nearest_output(pipeline: Pipeline) -> None:
    other = with_views(pipeline, "{count: 2, seed: 2, augmentation: {scale: [0.5, 1.0]}}")
    materialize(other)
    changed = with_views(pipeline, "{count: 2, seed: 3}")
    assert set(why(changed).values()) == {("seed 1 -> 3",)}


def test_a_new_code_version_is_a_reason(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(graph.CODE_VERSIONS, "caption_corpus", "99")
    assert why(pipeline) == {("caption_corpus/clean", "whole", None): ("code version 1 -> 99",)}


def test_a_changed_input_is_a_reason_only_for_its_group(pipeline: Pipeline) -> None:
    shards = Path(pipeline.profile.folder) / "shards"
    shutil.copy(shards / "00001.tar", shards / "00003.tar")
    (key, reasons), *rest = why(pipeline).items()
    assert key == ("raw_shards", "whole", "g01") and len(reasons) == 1 and " -> " in reasons[0]
    # the views depend on shards that are not read yet
    assert dict(rest) == {("augmentations", f"view-{n}", "g01"): ("upstream raw_shards",) for n in (0, 1)}
    # one missing group is enough
    assert why(pipeline, ["captioner/first"])["captioner/first", "whole", None] == ("new", "upstream raw_shards")
    pipeline.materialize("raw_shards", "g01")
    assert set(why(pipeline).values()) == {("upstream raw_shards has changed",)}


def close_empty(pipeline: Pipeline, prefix: str = "") -> None:
    """Write a manifest without files for every part of the assets whose keys begin with ``prefix``."""
    for asset in pipeline.graph.values():
        for group in pipeline.groups(asset) if asset.key.startswith(prefix) else []:
            for part in asset.slices_of(group).values():
                task = pipeline.task_for(asset, part, group)
                assert task is not None
                task.commit([], samples=1)
    pipeline.forget()


def test_added_and_removed_inputs_are_reasons(tiny: Path) -> None:
    pipeline = Pipeline(load(tiny))
    close_empty(pipeline)
    assert plan(pipeline).items == ()
    values = yaml.safe_load(tiny.read_text())
    third = {**values["teachers"][0], "name": "third"}
    teachers = {"more": [*values["teachers"], third], "fewer": values["teachers"][:1]}
    found = {}
    for name, listed in teachers.items():
        tiny.write_text(yaml.safe_dump({**values, "teachers": listed}))
        changed = Pipeline(load(tiny))
        close_empty(changed, "teacher")
        found[name] = set(why(changed, ["reinforced_dataset"])["reinforced_dataset", "whole", "g00"])
    kinds = ("image", "text", "first", "second")
    assert {f"upstream teacher_embeddings/third/{kind} added" for kind in kinds} <= found["more"]
    assert not any(reason.endswith("no longer read") for reason in found["more"])
    gone = {reason for reason in found["fewer"] if reason.endswith("is no longer read")}
    assert gone and all("narrow" in reason for reason in gone)
    assert not any(reason.endswith(" added") for reason in found["fewer"])


def test_an_input_that_one_role_no_longer_reads_is_a_reason(tiny: Path) -> None:
    pipeline = Pipeline(load(tiny))
    close_empty(pipeline)
    fewer = with_views(pipeline, "{count: 1, seed: 1}")
    (found,) = {why(fewer, ["reinforced_dataset"])["reinforced_dataset", "whole", group] for group in ("g00", "g01")}
    assert "augmentations/view-1 is no longer read" in found
    assert "upstream augmentations added" in found


def test_a_reason_names_the_upstream_asset_of_its_role(tiny: Path) -> None:
    """The role ``data/extra`` begins with the role ``data`` and a slash."""
    corpus, captioner = "caption_corpus/clean", "captioner/first"

    def with_roles() -> Pipeline:
        pipeline = Pipeline(load(tiny))
        asset = pipeline.graph[captioner]
        inputs = {"data": Input("raw_shards"), "data/extra": Input(corpus)}
        parts = {name: replace(part, inputs=inputs) for name, part in asset.slices.items()}
        pipeline.graph[captioner] = replace(asset, slices=parts)
        return pipeline

    close_empty(with_roles())
    (tiny.parent / "corpus" / "00000.tar").write_bytes(b"other bytes")
    changed = with_roles()
    asset = changed.graph[corpus]
    task = changed.task_for(asset, asset.slices["whole"], None)
    assert task is not None
    task.commit([], samples=2)
    assert why(changed, [captioner]) == {(captioner, "whole", None): (f"upstream {corpus} has changed",)}


def test_a_damaged_manifest_is_the_only_reason(pipeline: Pipeline) -> None:
    (corpus,) = pipeline.read("caption_corpus/clean")
    path = Path(pipeline.storage.url) / corpus.prefix / "manifest.json"
    path.write_text("{")
    ((key, (reason,)),) = why(pipeline).items()
    assert key == ("caption_corpus/clean", "whole", None)
    assert reason.startswith("damaged: ") and str(path) in reason


def test_a_selection_contains_its_upstream_assets_in_order(pipeline: Pipeline) -> None:
    assert selected(pipeline, ["teacher_embeddings/wide/first"]) == [
        "raw_shards",
        "teacher/wide",
        "captioner/first",
        "synthetic_captions/first",
        "teacher_embeddings/wide/first",
    ]
    assert selected(pipeline, None) == list(pipeline.graph)
    with pytest.raises(UserError, match="misspelt"):
        selected(pipeline, ["misspelt"])


@pytest.mark.parametrize(
    ("before", "after", "changes"),
    [
        ({"a": 1, "b": {"c": 2.0}}, {"a": 1.0, "b": {"c": 2}}, []),
        ({"train": {"steps": 200, "seed": 0}}, {"train": {"steps": 300, "seed": 0}}, ["train.steps 200 -> 300"]),
        ({"gone": 1, "same": 2}, {"same": 2, "added": 0.001}, ["gone 1 -> none", "added none -> 0.001"]),
        ({"on": True}, {"on": 2}, ["on True -> 2"]),
        ({"scales": [50.0, None]}, {"scales": (50.5, None)}, ["scales [50, none] -> [50.5, none]"]),
        ({"text": "x" * 40}, {"text": "y" * 41}, [f"text {'x' * 40} -> {'y' * 37}..."]),
        ({"nested": {"a": 1}}, {"nested": None}, ["nested {'a': 1} -> none"]),
    ],
)
def test_changed_fields_are_named_with_both_values(before: Any, after: Any, changes: list[str]) -> None:
    assert field_changes(before, after) == changes


def test_own_changes_come_before_those_of_inputs(pipeline: Pipeline) -> None:
    shards = Path(pipeline.profile.folder) / "shards"
    shutil.copy(shards / "00001.tar", shards / "00003.tar")
    found = why(with_views(pipeline, "{count: 2, seed: 9}"))
    assert found["augmentations", "view-0", "g01"] == ("seed 1 -> 9", "upstream raw_shards")
