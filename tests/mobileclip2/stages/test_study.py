from __future__ import annotations

from pathlib import Path

import pytest

from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline

STUDY = """
studies:
  - {name: data, student: plain, evaluate_on: [shapes], rows: [{name: base, data: raw}]}
"""


def test_a_trial_stores_its_scores_and_no_weights(tiny: Path) -> None:
    tiny.write_text(tiny.read_text() + STUDY)
    pipeline = Pipeline(load(tiny))
    for group in pipeline.profile.group_names:
        pipeline.materialize("raw_shards", group)
    pipeline.materialize("study/data", "base-seed0")
    (stored,) = pipeline.read("study/data", "base-seed0")
    assert {file.name for file in stored.manifest.files} == {"metrics.jsonl"}
    scores = stored.manifest.facts["scores"]
    assert scores["shapes/acc1"] == pytest.approx(round(scores["shapes/acc1"] * 12) / 12)
    assert stored.manifest.facts["samples"] == stored.manifest.samples == 32
