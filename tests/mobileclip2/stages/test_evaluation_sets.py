from __future__ import annotations

from collections.abc import Callable

from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.stages.evaluation_sets import open_set
from tests.tiny import CLASSES


def test_a_set_of_the_profile_is_opened_by_its_name(materialized: Callable[..., Pipeline]) -> None:
    found = open_set(materialized().profile, "shapes")
    assert (found.name, found.size, found.classnames) == ("shapes", len(CLASSES), list(CLASSES))
