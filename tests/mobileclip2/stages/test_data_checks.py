"""The checks read stored sidecars. The tests write their own sidecars and pass a stub of a pipeline."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch

from mobileclip2.asset_key import AssetKey
from mobileclip2.config.checks import Checks
from mobileclip2.data import sidecar
from mobileclip2.stages import data_checks
from mobileclip2.stages.data_checks import ROWS, captions_vary, embeddings_are_sound, few_samples_are_bad


@pytest.fixture
def judged(tmp_path, monkeypatch):
    """Return a function that runs a check on tables, one for each slice, as the output of an asset."""

    def judge(check, tables, *, key="synthetic_captions/first", skipped=0, **limits):
        files = []
        for number, table in enumerate(tables):
            files.append(tmp_path / f"{number}.parquet")
            files[-1].write_bytes(sidecar.to_bytes(table))
        monkeypatch.setattr(data_checks, "artifacts", lambda pipeline, result: files)
        monkeypatch.setattr(data_checks, "paths", lambda artifact: [artifact])
        pipeline = SimpleNamespace(profile=SimpleNamespace(checks=Checks(**limits), max_bad_share=0.1))
        samples = sum(table.num_rows for table in tables)
        reasons = {"repetition": skipped} if skipped else {}
        asset = SimpleNamespace(key=AssetKey(key))
        return check(pipeline, SimpleNamespace(asset=asset, samples=samples, skip_reasons=reasons))

    return judge


def captions(*texts):
    return pa.table({"key": [str(number) for number in range(len(texts))], "caption": texts}, schema=sidecar.CAPTIONS)


def embeddings(rows):
    return sidecar.embeddings_table(
        [str(number) for number in range(len(rows))], torch.as_tensor(np.asarray(rows)).float()
    )


def units(count, dim=8):
    rows = np.random.default_rng(0).normal(size=(count, dim))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("skipped", "limit", "passed"), [(5, None, True), (6, None, False), (6, 0.06, True), (1, 0.0, False)]
)
def test_the_default_bad_sample_limit_is_half_of_the_stage_limit(judged, skipped, limit, passed):
    table = captions(*["a"] * (100 - skipped))
    verdict = judged(few_samples_are_bad, [table], skipped=skipped, bad_samples=limit)
    assert verdict.passed is passed and verdict.numbers["bad_share"] == pytest.approx(skipped / 100)
    assert verdict.numbers["skipped_repetition"] == skipped


def test_captions_that_are_mostly_equal_fail(judged):
    varied = captions(*(f"a thing {number}" for number in range(30)))
    same = captions(*["a thing"] * 30)
    assert judged(captions_vary, [varied]).passed
    verdict = judged(captions_vary, [varied, same], repeated_captions=0.4)
    assert (
        not verdict.passed and not verdict.is_warning and "50.0% of the captions are 'a thing'" in verdict.description
    )
    assert "checks.repeated_captions" in verdict.description
    assert verdict.numbers["most_frequent_share"] == 0.5 and verdict.numbers["distinct_share"] == pytest.approx(31 / 60)


def test_failed_captions_count_as_degenerate_and_not_as_equal(judged):
    table = captions(*(f"a thing {number}" for number in range(15)), *[""] * 15)
    assert judged(captions_vary, [table], skipped=15).passed
    verdict = judged(captions_vary, [table], skipped=15, degenerate_captions=0.4)
    assert not verdict.passed and verdict.is_warning and verdict.numbers["degenerate_share"] == 0.5
    assert verdict.numbers["most_frequent_share"] == pytest.approx(1 / 15)


@pytest.mark.parametrize("tables", [[], [captions()], [captions(*["a"] * 19)], [captions(*[""] * 19)]])
def test_few_captions_are_not_judged(judged, tables):
    verdict = judged(captions_vary, tables, skipped=1, repeated_captions=0, degenerate_captions=0)
    assert verdict.passed and "distinct captions" in verdict.description


@pytest.mark.parametrize(
    ("scale", "passed"), [(1.0, True), (1.01, True), (1.1, False), (0.0, False), (float("nan"), False)]
)
def test_embeddings_must_have_unit_norm(judged, scale, passed):
    rows = units(30)
    rows[7] *= scale
    verdict = judged(embeddings_are_sound, [embeddings(units(5)), embeddings(rows)], key="teacher_embeddings/t/text")
    assert verdict.passed is passed and ("checks.norm_error" in verdict.description) is not passed
    assert all(np.isfinite(list(verdict.numbers.values())))


def test_equal_image_embeddings_fail_and_equal_text_embeddings_pass(judged):
    rows = np.repeat(units(3), 10, axis=0)
    verdict = judged(embeddings_are_sound, [embeddings(rows)], key="teacher_embeddings/t/image")
    assert not verdict.passed and verdict.numbers["repeated_share"] == pytest.approx(0.9)
    assert judged(embeddings_are_sound, [embeddings(rows)], key="teacher_embeddings/t/text").passed
    assert judged(
        embeddings_are_sound, [embeddings(rows)] * 2, key="teacher_embeddings/t/image", repeated_embeddings=0.9
    ).passed


@pytest.mark.parametrize("tables", [[], [embeddings(np.empty((0, 8)))]])
def test_a_group_without_embeddings_passes(judged, tables):
    assert judged(embeddings_are_sound, tables, key="teacher_embeddings/t/image").passed


def test_at_most_a_fixed_number_of_rows_per_slice_is_read(judged):
    verdict = judged(embeddings_are_sound, [embeddings(units(ROWS + 5)), embeddings(units(7))])
    assert verdict.numbers["compared"] == ROWS + 7
