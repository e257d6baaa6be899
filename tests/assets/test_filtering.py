"""Dagster shows the histogram of the scores and the cut."""

from assets.filtering import filtering, histogram
from assets.keys import library_key
from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline
from tests.filtered import make_filtered, selected


def test_the_selection_shows_every_pair_in_its_histogram(tmp_path):
    pipeline = selected(make_filtered(tmp_path, keep=0.5))
    shown = histogram(pipeline, pipeline.materialize("selection"))
    rows = shown["scores"].value.splitlines()[2:]
    assert sum(int(row.split("|")[2]) for row in rows) == 23
    assert -1 <= shown["lowest_kept_score"].value <= 1


def test_each_stage_is_an_asset(tmp_path):
    profile = load(make_filtered(tmp_path, keep=0.5))
    keys = [library_key(asset.key) for asset in filtering(profile, Pipeline(profile).graph)]
    assert keys == ["filter_scores/clean", "selection", "selected_shards"]
