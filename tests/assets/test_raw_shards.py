from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import dagster as dg

from assets.checks import Check
from assets.raw_shards import few_samples_are_bad, raw_shards, sample_sheet
from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline


def test_the_asset_has_a_check_and_a_partition_per_group(demo: Pipeline) -> None:
    asset = raw_shards(demo.profile, demo.graph["raw_shards"])
    assert {key.name for key in asset.check_keys} == {"few_samples_are_bad", "no_evaluation_pictures"}
    assert asset.partitions_def is not None
    assert asset.partitions_def.get_partition_keys() == demo.profile.group_names


def test_the_checks_warn_and_do_not_block(tiny: Path, demo: Pipeline) -> None:
    asset = raw_shards(demo.profile, demo.graph["raw_shards"])
    assert not any(spec.blocking for spec in asset.check_specs)
    tiny.write_text(tiny.read_text().replace("checks: {", "checks: {bad_samples: 0, "))
    pipeline = Pipeline(load(tiny))
    result = Check(few_samples_are_bad, warns=True).evaluate(pipeline, pipeline.materialize("raw_shards", "g00"))
    assert not result.passed and result.severity == dg.AssetCheckSeverity.WARN


def test_the_sheet_shows_samples(
    materialized: Callable[..., Pipeline], png_of: Callable[[object], str], shown_at_once: Callable[[object], bool]
) -> None:
    pipeline = materialized("raw_shards")
    sheet = sample_sheet(pipeline, pipeline.materialize("raw_shards", "g00"))
    assert png_of(sheet["sample_sheet"]) == "![samples](" and shown_at_once(sheet["sample_sheet_preview"])
