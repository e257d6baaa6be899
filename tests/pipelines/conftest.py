from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline
from tests.pipelines.small import edited, without_captioners, without_models


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """In memory: on disk every run has a database of its own, which takes longer than what these tests run."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def small(tiny: Path) -> Path:
    """A profile with one of every stage but captioners, and nothing materialized."""
    edited(tiny, without_captioners)
    return tiny


@pytest.fixture
def smallest(tiny: Path) -> Path:
    """A profile without models, and nothing materialized."""
    edited(tiny, without_models)
    return tiny


@pytest.fixture(scope="session")
def finished_template(tiny_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(shutil.copytree(tiny_template, tmp_path_factory.mktemp("finished") / "tiny"))
    pipeline = edited(folder / "tiny.yaml", without_captioners)
    for asset, group in pipeline.stale():
        pipeline.materialize(asset.key, group)
    return folder


@pytest.fixture
def finished(finished_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small profile with everything materialized."""
    monkeypatch.setenv("MOBILECLIP2_CACHE", str(tmp_path / "cache"))
    profile = Path(shutil.copytree(finished_template, tmp_path / "tiny")) / "tiny.yaml"
    assert not list(Pipeline(load(profile)).stale())
    return profile
