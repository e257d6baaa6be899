from __future__ import annotations

from collections.abc import Callable

from assets.augmentations import augmentations, views_sheet
from mobileclip2.engine.pipeline import Pipeline


def test_one_asset_holds_the_views_of_all_teachers(demo: Pipeline) -> None:
    asset = augmentations(demo.profile, demo.graph["augmentations"])
    assert asset.key.to_user_string() == "augmentations" and asset.partitions_def is not None
    assert [dep.asset_key.to_user_string() for spec in asset.specs for dep in spec.deps] == ["raw_shards"]


def test_the_sheet_shows_views(
    materialized: Callable[..., Pipeline], png_of: Callable[[object], str], shown_at_once: Callable[[object], bool]
) -> None:
    pipeline = materialized("augmentations")
    entries = views_sheet(pipeline, pipeline.materialize("augmentations", "g00"))
    assert png_of(entries["views"]) == "![views](" and shown_at_once(entries["views_preview"])
