from __future__ import annotations

from collections.abc import Callable

import pytest

from mobileclip2.data import sidecar
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.evaluation.results import RESULTS, SAMPLES, loads, measure
from mobileclip2.stages.evaluation_sets import open_set
from tests.tiny import CLASSES


def test_metrics_match_the_stored_predictions(materialized: Callable[..., Pipeline]) -> None:
    pipeline = materialized("evaluation/wide")
    (stored,) = pipeline.read("evaluation/wide", "shapes")
    table = sidecar.read(stored.fetch(SAMPLES))
    (result,) = loads(stored.fetch(RESULTS).read_text(), RESULTS)
    assert table.num_rows == stored.manifest.samples == len(CLASSES)
    assert result.metrics == pytest.approx(measure("shapes", table))
    assert result.protocol == open_set(pipeline.profile, "shapes").digest
