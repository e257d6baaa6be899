from __future__ import annotations

from pathlib import Path

import pytest

from mobileclip2.config.model import Model
from mobileclip2.config.profile import load
from mobileclip2.engine.hub_commits import HubCommits
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.stages import published_weights
from mobileclip2.stages.published_weights import check_published_weights

GIVEN = "  - {name: given, model: {open_clip: MobileCLIP2-S0, weights: {tag: dfndr2b}}}\n"
COMMITS = {"somebody/some-model": "1" * 40}


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the fields whose models are looked up. No request goes to a hub."""
    fields: list[str] = []

    def resolve(self: HubCommits, model: Model, name: str) -> dict[str, str]:
        fields.append(name)
        return COMMITS

    monkeypatch.setattr(HubCommits, "resolve", resolve)
    monkeypatch.setattr(published_weights, "find", lambda model, name, recorded: fields.append(name))
    return fields


def test_published_weights_of_missing_assets_are_checked(tiny: Path, checked: list[str]) -> None:
    tiny.write_text(tiny.read_text().replace("evaluation:\n", f"{GIVEN}evaluation:\n"))
    pipeline = Pipeline(load(tiny))
    assert check_published_weights(pipeline, list(pipeline.graph)) == {"students.given.model": COMMITS}
    assert checked == ["students.given.model"]


def test_weights_in_files_are_not_looked_up(tiny: Path, checked: list[str]) -> None:
    pipeline = Pipeline(load(tiny))
    assert check_published_weights(pipeline, list(pipeline.graph)) == {} and checked == []
