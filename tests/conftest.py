from __future__ import annotations

import gc
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import dagster as dg

    from mobileclip2.engine.pipeline import Pipeline

# Fixtures import torch and Dagster when they run, because most tests need neither.


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--whole", action="store_true", help="all of the tiny profile on the fake cluster, in some minutes"
    )
    parser.addoption("--python", default=sys.executable, help="the interpreter under which the wheel is installed")


def pytest_configure() -> None:
    # A shell starts background processes with SIGINT ignored. The commands that tests stop would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Files with slow tests run first. Otherwise one process could run a slow test at the end while the other is idle.
    slow = {item.path for item in items if any(item.get_closest_marker(mark) for mark in ("slow", "ui"))}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # a collection would otherwise walk the objects of all imports and tests


def pytest_runtest_teardown() -> None:
    gc.enable()  # 'mobileclip2 plan' disables it, because its process ends with the plan


def pytest_unconfigure() -> None:
    gc.unfreeze()  # extension modules report objects that are left at the end as leaks


@pytest.fixture(scope="session")
def tiny_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the tiny profile and all its data. Tests copy it and do not change it."""
    from tests.tiny import make_tiny

    return make_tiny(tmp_path_factory.mktemp("tiny")).parent


@pytest.fixture
def tiny(tiny_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the tiny profile for one test, without materialized assets."""
    monkeypatch.setenv("MOBILECLIP2_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copytree(tiny_template, tmp_path / "tiny")) / "tiny.yaml"


@pytest.fixture(scope="session")
def materialized(tiny_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Pipeline]:
    """Return a function that computes assets of the tiny profile with everything upstream, and returns the pipeline.

    The profile has one group. Each asset is computed once per session, so tests read results and do not change them.
    """
    from mobileclip2.config.profile import load
    from mobileclip2.engine.pipeline import Pipeline

    folder = Path(shutil.copytree(tiny_template, tmp_path_factory.mktemp("materialized") / "tiny"))
    profile = folder / "tiny.yaml"
    profile.write_text(profile.read_text().replace("groups: 2", "groups: 1"))

    def materialize(*keys: str) -> Pipeline:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MOBILECLIP2_CACHE", str(folder.parent / "cache"))
            pipeline = Pipeline(load(profile))
            wanted = set(keys)
            for asset in reversed(pipeline.graph.values()):
                if asset.key in wanted:
                    wanted.update(asset.upstream)
            for asset, group in pipeline.stale():
                if asset.key in wanted:
                    pipeline.materialize(asset.key, group)
        return pipeline

    return materialize


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """Return an instance in memory. On disk, each run has a database of its own, which is slower than these tests."""
    import dagster as dg

    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture(scope="session")
def finished_template(tiny_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a materialized profile that has each stage except captioners."""
    from tests.pipelines.small import edited, without_captioners

    folder = Path(shutil.copytree(tiny_template, tmp_path_factory.mktemp("finished") / "tiny"))
    pipeline = edited(folder / "tiny.yaml", without_captioners)
    for asset, group in pipeline.stale():
        pipeline.materialize(asset.key, group)
    return folder


@pytest.fixture
def finished(finished_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the materialized profile without captioners."""
    from mobileclip2.config.profile import load
    from mobileclip2.engine.pipeline import Pipeline

    monkeypatch.setenv("MOBILECLIP2_CACHE", str(tmp_path / "cache"))
    profile = Path(shutil.copytree(finished_template, tmp_path / "tiny")) / "tiny.yaml"
    assert not list(Pipeline(load(profile)).stale())
    return profile
