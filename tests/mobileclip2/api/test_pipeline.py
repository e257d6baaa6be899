"""A program plans, runs and reads the same assets as the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

import mobileclip2
from mobileclip2.errors import ProfileError, UserError


def test_run_computes_the_planned_pairs(tiny: Path):
    pipeline = mobileclip2.Pipeline.open(tiny)
    assert pipeline.assets[0] == "raw_shards"
    planned = pipeline.plan("augmentations")
    assert [(each.asset, each.group) for each in planned] == [
        (asset, group) for asset in ("raw_shards", "augmentations") for group in ("g00", "g01")
    ]
    assert all("new" in each.reasons for each in planned)
    steps = []
    assert pipeline.run("augmentations", progress=steps.append) == len(planned)
    assert steps
    assert pipeline.plan("augmentations") == []
    assert pipeline.run("augmentations") == 0
    assert all(path.is_file() for path in pipeline.files("raw_shards"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda pipeline: pipeline.plan("raw_shard"), "there is no asset 'raw_shard'; did you mean 'raw_shards'"),
        (lambda pipeline: pipeline.read("pupil"), "not materialized yet"),
        (lambda pipeline: pipeline.read("nobody"), "there is no evaluation 'nobody'"),
        (lambda pipeline: pipeline.load("student/nobody"), "there is no model 'student/nobody'"),
        (lambda pipeline: pipeline.load("student/pupil"), "not materialized yet"),
    ],
)
def test_unknown_and_missing_assets_are_reported(tiny: Path, call, message):
    with pytest.raises(UserError, match=message):
        call(mobileclip2.Pipeline.open(tiny))


def test_an_unreadable_profile_is_reported(tmp_path: Path):
    with pytest.raises(ProfileError, match=r"gone\.yaml: cannot read the profile"):
        mobileclip2.Pipeline.open(tmp_path / "gone.yaml")
