"""Compute all missing assets in order. After a failure, compute the assets that do not depend on it."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from assets.keys import dagster_key
from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.engine.plan import plan
from mobileclip2.errors import UserError
from mobileclip2.progress import Step
from pipelines.observe import report
from pipelines.run import refresh
from tests.pipelines.small import edited


class Observer:
    """Record the calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []

    def begin(self, label: str) -> None:
        self.calls.append(("begin", label))

    def step(self, label: str, step: Step) -> None:
        assert self.calls[-1] == ("begin", label)

    def end(self, label: str) -> None:
        self.calls.append(("end", label))

    def fail(self, label: str) -> None:
        self.calls.append(("fail", label))

    def labels(self, kind: str) -> list[str]:
        return [label for called, label in self.calls if called == kind]


@pytest.mark.slow
def test_the_plan_is_computed_in_order_and_is_then_empty(small: Path, instance: dg.DagsterInstance) -> None:
    pipeline = Pipeline(load(small))
    planned = plan(pipeline).pairs
    observer = Observer()
    assert refresh(pipeline, instance, None, observer) == len(planned)
    assert observer.labels("begin") == observer.labels("end") == list(map(str, planned))
    assert plan(Pipeline(load(small))).items == ()
    for asset, group in planned:
        where = dg.AssetRecordsFilter(dagster_key(asset), asset_partitions=[group] if group else None)
        (record,) = instance.fetch_materializations(where, limit=1).records
        assert record.asset_materialization is not None
        tags = record.asset_materialization.tags or {}
        assert tags["dagster/data_version"] == pipeline.materialize(asset, group).data_version
    assert report(pipeline, instance) == 0, "the runs have reported everything"
    runs = len(instance.get_runs())
    assert refresh(pipeline, instance, None, Observer()) == 0
    assert len(instance.get_runs()) == runs


def test_only_some_assets_and_what_they_need(smallest: Path, instance: dg.DagsterInstance) -> None:
    observer = Observer()
    refresh(Pipeline(load(smallest)), instance, ["augmentations"], observer)
    assert observer.labels("end") == [f"{asset} [g0{n}]" for asset in ("raw_shards", "augmentations") for n in (0, 1)]


def test_all_failures_are_named_and_the_rest_is_computed(smallest: Path, instance: dg.DagsterInstance) -> None:
    edited(smallest, lambda values: values["caption_corpora"].append({"name": "gone", "url": "gone"}))
    shard = smallest.parent / "shards" / "00000.tar"
    shard.write_bytes(shard.read_bytes()[:1000])
    observer = Observer()
    with pytest.raises(UserError) as raised:
        refresh(Pipeline(load(smallest)), instance, None, observer)
    first, second, last = str(raised.value).split("\n")
    assert first.startswith("raw_shards [g00]: ") and "00000.tar: cut off or damaged at byte" in first
    assert "gone: no such folder, or it is empty" in second
    assert last == ("2 asset-group pairs failed; 1 depend on them and were not computed. Everything else is stored")
    assert observer.labels("end") == ["raw_shards [g01]", "augmentations [g01]", "caption_corpus/clean"]
    assert observer.labels("fail") == ["raw_shards [g00]", "caption_corpus/gone"]
