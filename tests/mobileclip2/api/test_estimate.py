"""Estimates of samples, time, memory and disk before anything is computed."""

from __future__ import annotations

import json
from statistics import median

import pytest

from mobileclip2.api.check import check
from mobileclip2.api.estimate import Estimate, estimate
from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline


def estimates(pipeline: Pipeline) -> dict[str, Estimate]:
    return {each.asset: each for each in estimate(pipeline, check(pipeline))}


def test_estimates_count_samples_by_slice_and_bytes_by_dimension(tiny):
    found = estimates(Pipeline(load(tiny)))
    assert found["raw_shards"].samples == 24
    assert found["augmentations"].samples == 48
    assert found["synthetic_captions/first"].samples == 48
    assert found["teacher_embeddings/wide/image"].samples == 48
    assert found["teacher_embeddings/wide/image"].disk == 48 * 24 * 2
    assert found["student/pupil"].samples == 4 * 8
    assert found["evaluation/pupil"].samples == 12
    assert found["student/pupil"].memory > found["evaluation/pupil"].memory
    # it reads two more captions than the plain student. The time is unknown: it was neither measured nor stated
    assert found["student/pupil"].flops > found["student/plain"].flops
    assert {each.seconds for each in found.values()} == {None}


def test_time_comes_from_the_profile_or_from_the_store(tiny):
    tiny.write_text(tiny.read_text() + "rates: {augmentations: 8, raw_shards: 3}\n")
    pipeline = Pipeline(load(tiny))
    assert estimates(pipeline)["augmentations"].seconds == 6
    for group in pipeline.profile.group_names:
        pipeline.materialize("raw_shards", group)
    lines = (tiny.parent / "store" / ".scratch" / "times" / "raw_shards.jsonl").read_text().splitlines()
    rates = [record["samples"] / record["seconds"] for record in map(json.loads, lines)]
    assert len(rates) == 2
    assert estimates(Pipeline(load(tiny)))["raw_shards"].seconds == pytest.approx(24 / median(rates))


def test_the_estimate_of_a_reinforced_dataset_is_near_its_size(materialized):
    pipeline = materialized("reinforced_dataset")
    found = estimates(pipeline)["reinforced_dataset"]
    stored = sum(file.size for artifact in pipeline.read("reinforced_dataset") for file in artifact.manifest.files)
    payload = stored - 24 * 512 * 2 * 7  # headers and padding of small members
    assert found.disk is not None and 0.3 < found.disk / max(payload, 1) < 3


def test_assets_with_unreadable_inputs_are_left_out(tiny):
    (tiny.parent / "shards").rename(tiny.parent / "elsewhere")
    assert set(estimates(Pipeline(load(tiny)))) == {
        "caption_corpus/clean",
        *(f"{stage}/{name}" for stage, name in (("captioner", "first"), ("captioner", "second"))),
        *(f"{stage}/{name}" for stage in ("teacher", "evaluation") for name in ("wide", "narrow")),
        *(f"{stage}/{name}" for stage in ("student", "evaluation") for name in ("pupil", "plain")),
    }
