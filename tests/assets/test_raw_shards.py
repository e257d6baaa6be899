from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from assets.raw_shards import few_samples_are_bad, raw_shards, sample_sheet
from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline


def test_the_asset_has_a_check_and_a_partition_per_group(demo: Pipeline) -> None:
    (asset,) = raw_shards(demo.profile, demo.graph)
    assert {key.name for key in asset.check_keys} == {"few_samples_are_bad"}
    assert asset.partitions_def is not None
    assert asset.partitions_def.get_partition_keys() == demo.profile.group_names


@pytest.mark.parametrize(("limit", "passed"), [(0.3, True), (0.16, False)])
def test_the_check_warns_at_half_of_the_accepted_share(tiny: Path, limit: float, passed: bool) -> None:
    """One of the 12 samples of the group is bad, which is a share of 0.083. The stage fails a shard above 0.167."""
    result = Pipeline(load(tiny)).materialize("raw_shards", "g00")
    tiny.write_text(tiny.read_text().replace("max_bad_share: 0.3", f"max_bad_share: {limit}"))
    check = few_samples_are_bad(Pipeline(load(tiny)), result)
    assert check.passed is passed and check.severity == dg.AssetCheckSeverity.WARN
    assert check.metadata["share"].value == pytest.approx(1 / 12)


def test_the_sheet_shows_samples(
    materialized: Callable[..., Pipeline], png_of: Callable[[object], str], shown_at_once: Callable[[object], bool]
) -> None:
    pipeline = materialized("raw_shards")
    sheet = sample_sheet(pipeline, pipeline.materialize("raw_shards", "g00"))
    assert png_of(sheet["sample_sheet"]) == "![samples](" and shown_at_once(sheet["sample_sheet_preview"])
