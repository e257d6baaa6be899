from __future__ import annotations

from pathlib import Path

import pytest

from mobileclip2.config.profile import load
from mobileclip2.engine.hub_commits import HubCommits
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.stages.published_weights import check_published_weights

GIVEN = "  - {name: given, model: {open_clip: MobileCLIP2-S0, weights: {tag: dfndr2b}}}\n"


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the fields whose weights are checked. No hub is asked."""
    fields: list[str] = []
    monkeypatch.setattr(HubCommits, "resolve", lambda self, model, field: fields.append(field) or {})
    return fields


def test_published_weights_of_missing_assets_are_checked(tiny: Path, checked: list[str]) -> None:
    tiny.write_text(tiny.read_text().replace("evaluation:\n", f"{GIVEN}evaluation:\n"))
    pipeline = Pipeline(load(tiny))
    check_published_weights(pipeline, list(pipeline.graph))
    assert checked == ["students.given.model"]


def test_weights_in_files_are_not_looked_up(tiny: Path, checked: list[str]) -> None:
    pipeline = Pipeline(load(tiny))
    check_published_weights(pipeline, list(pipeline.graph))
    assert checked == []
