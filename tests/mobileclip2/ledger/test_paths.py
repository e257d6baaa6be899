from __future__ import annotations

import re

import pytest

from mobileclip2.config.profile import Profile, load
from mobileclip2.engine.graph import build_graph
from mobileclip2.ledger import paths
from pipelines.profiles import PROFILES


@pytest.fixture(scope="module")
def demo() -> Profile:
    return load(PROFILES / "demo.yaml")


def test_every_asset_has_a_stage_name_that_dvc_allows(demo: Profile) -> None:
    graph = build_graph(demo)
    names = {paths.stage_name(key) for key in graph}
    assert len(names) == len(graph)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", name) for name in names)


def test_checkpoints_are_outside_the_files_in_git(demo: Profile) -> None:
    assert paths.checkpoint_folder("s0") == "checkpoints/s0"
    assert not paths.checkpoint_folder("s0").startswith(paths.root(demo))
