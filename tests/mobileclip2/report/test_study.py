from __future__ import annotations

import pytest

from mobileclip2.config.study import Study
from mobileclip2.report.study import StudyResult, figures, table

ROWS = Study.model_validate(
    {
        "name": "s",
        "student": "pupil",
        "seeds": [0, 1],
        "evaluate_on": ["shapes"],
        "rows": [{"name": "base", "data": "raw"}, {"name": "distillation"}, {"name": "later"}],
    }
)
RESULT = StudyResult(
    ROWS,
    {"base": {"shapes/acc1": [0.1, 0.4]}, "distillation": {"shapes/acc1": [0.5]}, "later": {}},
)


def test_the_table_has_the_mean_and_the_range_over_the_seeds() -> None:
    assert table(RESULT) == [
        ["s", "seeds", "shapes/acc1"],
        ["base", "2 of 2", "25.0 (30.0)"],
        ["distillation", "1 of 2", "50.0"],
        ["later", "0 of 2", "–"],
    ]


def test_a_search_is_drawn_over_its_scales() -> None:
    search = Study(name="s", student="pupil", evaluate_on=("shapes",), scales={"wide": (20, 0.5)})
    found = StudyResult(search, {"wide_20": {"shapes/acc1": [0.2]}, "wide_0_5": {"shapes/acc1": [0.4]}})
    (figure,) = figures(found)
    means = figure.axes[0].lines[1]
    assert list(means.get_xdata()) == [0.5, 20] and list(means.get_ydata()) == pytest.approx([40, 20])


def test_each_metric_has_a_figure() -> None:
    assert len(figures(RESULT)) == 1
