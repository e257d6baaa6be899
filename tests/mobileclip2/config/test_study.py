from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from mobileclip2.config.student import Student
from mobileclip2.config.study import Study, StudyRow

BASE = Student.model_validate(
    {
        "name": "pupil",
        "model": {"open_clip": "MobileCLIP2-S0"},
        "loss": {"distill": 0.25},
        "train": {"steps": 4, "batch": 8, "learning_rate": 1e-3, "seed": 5},
        "license": "MIT",
    }
)


def study(**fields: Any) -> Study:
    return Study.model_validate({"name": "s", "student": "pupil", "evaluate_on": ["shapes"], **fields})


def test_every_row_is_trained_with_every_seed() -> None:
    rows = [{"name": "base", "data": "raw"}, {"name": "half", "loss": {"distill": 0.5}}]
    trials = study(seeds=[0, 3], rows=rows).trials(BASE, ["wide"])
    assert list(trials) == ["base-seed0", "base-seed3", "half-seed0", "half-seed3"]
    assert (trials["base-seed3"].data, trials["base-seed3"].training.seed) == ("raw", 3)
    assert trials["half-seed0"].loss.distill == 0.5
    assert all(trial.evaluate_on == ("shapes",) and trial.model == BASE.model for trial in trials.values())


def test_a_search_distils_from_one_teacher_at_a_time() -> None:
    lines = study(scales={"wide": [20, 0.5], "narrow": [30]}).lines(BASE, ["wide", "narrow"])
    assert {line.name: line.loss.logit_scales for line in lines} == {
        "wide_20": {"wide": 20, "narrow": None},
        "wide_0_5": {"wide": 0.5, "narrow": None},
        "narrow_30": {"wide": None, "narrow": 30},
    }
    assert all(line.loss.distill == 0.25 for line in lines)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "study 's': give 'rows' or 'scales'"),
        ({"rows": [{"name": "a"}], "scales": {"wide": [1]}}, "study 's': give 'rows' or 'scales'"),
        ({"rows": [{"name": "a"}, {"name": "a"}]}, "study 's': rows must be unique"),
        ({"rows": [{"name": "a"}], "seeds": [1, 1]}, "study 's': seeds must be unique"),
        ({"scales": {"wide": [20, 20]}}, "study 's': wide must be unique"),
        ({"rows": [{"name": "a"}], "evaluate_on": []}, "evaluate_on"),
        ({"rows": [{"name": "a"}], "seeds": [0, -1]}, r"seeds\.1"),
        ({"scales": {"a": []}}, r"scales\.a"),
        ({"scales": {"a": [50, 50.000001]}}, "study 's': 2 scales have the same name 'a_50'"),
        ({"rows": [{"name": "a", "data": "raw", "loss": {"distill": 0}}]}, "row 'a': 'loss' needs 'data: reinforced'"),
        ({"rows": [{"name": "a", "corpora": ["labels"]}]}, "row 'a': 'corpora' needs 'data: raw'"),
        ({"rows": [{"name": "a", "augmentation": "views"}]}, "row 'a': a distilled student sees the stored views"),
        ({"scales": {"a": [1.5], "a_1": [5]}}, "study 's': 2 scales have the same name 'a_1_5'"),
    ],
)
def test_a_study_that_is_ambiguous_is_rejected(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        study(**fields)


def test_a_row_uses_reinforced_data_by_default() -> None:
    assert StudyRow(name="a").data == "reinforced"
