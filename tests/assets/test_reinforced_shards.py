from __future__ import annotations

from pathlib import Path

import dagster as dg
import yaml

from assets.reinforced_shards import reinforced_shards
from mobileclip2.config.profile import load
from mobileclip2.engine.graph import build_graph
from pipelines.asset_definitions import stages
from tests.mobileclip2.stages.published_shards import published_profile


def test_a_published_dataset_is_an_asset_without_upstream(tiny: Path) -> None:
    tiny.write_text(yaml.safe_dump(published_profile(tiny)))
    profile = load(tiny)
    asset = reinforced_shards(profile, build_graph(profile)["reinforced_shards/datacompdr"])
    assert asset.key == dg.AssetKey("reinforced_shards.datacompdr")
    assert not [dep for spec in asset.specs for dep in spec.deps] and asset.partitions_def is not None


def test_a_profile_without_sources_has_only_the_needed_assets(tiny: Path) -> None:
    tiny.write_text(yaml.safe_dump(published_profile(tiny)))
    keys = {key.to_user_string() for key in stages(load(tiny)).resolve_all_asset_keys()}
    inputs = {"inputs/datacompdr_shards", "inputs/evaluation_sets"}
    assert keys == {"reinforced_shards.datacompdr", "student.pupil", "evaluation.pupil"} | inputs
