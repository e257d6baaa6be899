from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster import FakeCluster


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeCluster]:
    """Return the fake cluster of all tests in this folder: two nodes with two GPUs each. Starting it is slow."""
    with FakeCluster(tmp_path_factory.mktemp("cluster"), {"one": 2, "two": 2}) as cluster:
        yield cluster
