from __future__ import annotations

from collections.abc import Callable

from assets.synthetic_captions import captions_fit_images, captions_sheet, captions_vary, synthetic_captions
from mobileclip2.engine.pipeline import Pipeline


def test_the_sheet_shows_captions(
    materialized: Callable[..., Pipeline], png_of: Callable[[object], str], shown_at_once: Callable[[object], bool]
) -> None:
    pipeline = materialized("synthetic_captions/first")
    result = pipeline.materialize("synthetic_captions/first", "g00")
    entries = captions_sheet(pipeline, result)
    assert png_of(entries["captions"]) == "![captions](" and shown_at_once(entries["captions_preview"])


def test_the_checks_block_downstream_assets(materialized: Callable[..., Pipeline], demo: Pipeline) -> None:
    asset = synthetic_captions(demo.profile, demo.graph["synthetic_captions/coca_labels"])
    assert {spec.name: spec.blocking for spec in asset.check_specs} == {
        "captions_vary": True,
        "captions_fit_images": True,
    }
    pipeline = materialized("synthetic_captions/first")
    result = pipeline.materialize("synthetic_captions/first", "g00")
    assert captions_vary(pipeline, result).passed and captions_fit_images(pipeline, result).passed
