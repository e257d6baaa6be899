from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster import FakeCluster


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeCluster]:
    """The fake cluster of all tests in here: two nodes with two GPUs each. It takes longer to start than most of them."""
    with FakeCluster(tmp_path_factory.mktemp("cluster"), {"one": 2, "two": 2}) as cluster:
        yield cluster
