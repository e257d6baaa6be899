"""Dagster shows the histogram of the scores and the cut."""

from assets.filtering import filter_scores, histogram, selected_shards, selection
from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline
from tests.filtered import make_filtered, selected


def test_the_selection_shows_every_pair_in_its_histogram(tmp_path):
    pipeline = selected(make_filtered(tmp_path, keep=0.5))
    shown = histogram(pipeline, pipeline.materialize("selection"))
    rows = shown["scores"].value.splitlines()[2:]
    assert sum(int(row.split("|")[2]) for row in rows) == 23
    assert -1 <= shown["lowest_kept_score"].value <= 1


def test_only_the_selection_covers_all_groups(tmp_path):
    pipeline = Pipeline(load(make_filtered(tmp_path, keep=0.5)))
    stages = {"filter_scores/clean": filter_scores, "selection": selection, "selected_shards": selected_shards}
    assets = {key: stage(pipeline.profile, pipeline.graph[key]) for key, stage in stages.items()}
    assert [key for key, asset in assets.items() if asset.partitions_def is None] == ["selection"]
