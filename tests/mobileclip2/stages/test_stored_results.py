from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from mobileclip2.config.profile import load
from mobileclip2.data import sidecar
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.errors import UserError
from mobileclip2.evaluation.results import RESULTS, SAMPLES
from mobileclip2.stages.stored_results import baseline_results, results_so_far, stored_results
from tests.tiny import CLASSES


def test_results_come_with_the_samples_of_each_set(materialized: Callable[..., Pipeline]) -> None:
    (result,) = stored_results(materialized("evaluation/wide"), "wide")
    assert result.key == "shapes" and result.samples.num_rows == len(CLASSES)


def test_results_so_far_leave_out_missing_evaluations(tiny: Path) -> None:
    pipeline = Pipeline(load(tiny))
    assert results_so_far(pipeline, "wide") == []
    with pytest.raises(UserError, match=r"evaluation/wide \[shapes\]: not materialized yet"):
        stored_results(pipeline, "wide")
    pipeline.materialize("teacher/wide")
    pipeline.materialize("evaluation/wide", "shapes")
    assert [result.key for result in results_so_far(pipeline, "wide")] == ["shapes"]


def test_a_baseline_is_a_model_or_a_folder_of_results(materialized: Callable[..., Pipeline], tmp_path: Path) -> None:
    pipeline = materialized("evaluation/wide")
    (expected,) = baseline_results(pipeline, "wide", "pupil")
    (stored,) = pipeline.read("evaluation/wide", "shapes")
    folder = shutil.copytree(stored.fetch(RESULTS).parent, tmp_path / "results")
    (found,) = baseline_results(pipeline, str(folder), "pupil")
    assert found.metrics == expected.metrics and found.samples.equals(expected.samples)


def test_a_baseline_that_contradicts_its_samples_is_refused(
    materialized: Callable[..., Pipeline], tmp_path: Path
) -> None:
    pipeline = materialized("evaluation/wide")
    (stored,) = pipeline.read("evaluation/wide", "shapes")
    folder = shutil.copytree(stored.fetch(RESULTS).parent, tmp_path / "results")
    table = sidecar.read(folder / SAMPLES)
    worst = pa.array([len(CLASSES)] * table.num_rows, pa.int32())
    (folder / SAMPLES).write_bytes(sidecar.to_bytes(table.set_column(table.column_names.index("rank"), "rank", worst)))
    with pytest.raises(UserError, match=r"samples\.parquet: 'shapes': acc1 of these samples is 0, but results\.jsonl"):
        baseline_results(pipeline, str(folder), "pupil")


def test_a_baseline_that_does_not_exist_is_named(materialized: Callable[..., Pipeline]) -> None:
    with pytest.raises(UserError, match="baseline 'nowhere': not a student or teacher of the profile"):
        baseline_results(materialized(), "nowhere", "pupil")
