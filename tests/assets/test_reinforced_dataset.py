from __future__ import annotations

from collections.abc import Callable

from assets.keys import library_key
from assets.reinforced_dataset import reinforced_dataset, reinforced_sheet
from mobileclip2.engine.graph import build_graph
from mobileclip2.engine.pipeline import Pipeline


def test_the_dataset_reads_every_embedding(demo: Pipeline) -> None:
    asset = reinforced_dataset(demo.profile, demo.graph["reinforced_dataset"])
    upstream = {library_key(dep.asset_key).stage for spec in asset.specs for dep in spec.deps}
    assert upstream == {"raw_shards", "augmentations", "synthetic_captions", "teacher_embeddings"}


def test_a_profile_without_teachers_has_no_dataset(materialized: Callable[..., Pipeline]) -> None:
    profile = materialized().profile.model_copy(update={"teachers": (), "students": ()})
    assert "reinforced_dataset" not in build_graph(profile)


def test_the_sheet_shows_samples(
    materialized: Callable[..., Pipeline], png_of: Callable[[object], str], shown_at_once: Callable[[object], bool]
) -> None:
    pipeline = materialized("reinforced_dataset")
    sheet = reinforced_sheet(pipeline, pipeline.materialize("reinforced_dataset", "g00"))
    assert png_of(sheet["sample_sheet"]) == "![reinforced samples](" and shown_at_once(sheet["sample_sheet_preview"])
