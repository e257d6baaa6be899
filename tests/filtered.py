"""The tiny profile with a filter and a selection."""

from pathlib import Path
from typing import Any

import yaml

from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline
from tests.tiny import make_tiny


def make_filtered(folder: Path, **select: Any) -> Path:
    """Write the tiny profile with the filter ``clean`` and a selection by it. Return the profile's path."""
    profile = make_tiny(folder)
    return set_selection(profile, **select)


def set_selection(profile: Path, **select: Any) -> Path:
    """Change the selection of a profile."""
    values = yaml.safe_load(profile.read_text())
    values["filtering"] = [{"name": "clean", "model": "teacher/wide"}]
    values["select"] = {"by": "clean", **select}
    profile.write_text(yaml.safe_dump(values, sort_keys=False))
    return profile


STAGES = ("raw_shards", "teacher/wide", "filter_scores/clean", "selection", "selected_shards")


def run(pipeline: Pipeline, *keys: str) -> None:
    """Materialize assets for all groups."""
    for key in keys:
        for group in pipeline.groups(pipeline.graph[key]):
            pipeline.materialize(key, group)


def selected(profile: Path) -> Pipeline:
    """Run a profile up to its selected shards."""
    pipeline = Pipeline(load(profile))
    run(pipeline, *STAGES)
    return pipeline
