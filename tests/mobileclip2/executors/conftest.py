from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.cluster import FakeCluster, Faults, Refused
from tests.waiting import until


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeCluster]:
    """Return the fake cluster of all tests in this folder: two nodes with two GPUs each. Starting it is slow."""
    with FakeCluster(tmp_path_factory.mktemp("cluster"), {"one": 2, "two": 2}) as cluster:
        yield cluster


@pytest.fixture
def emptied(running: FakeCluster) -> Iterator[FakeCluster]:
    """Return the fake cluster without faults. The test leaves no Job behind except failed ones."""
    running.faults = Faults()
    running.requests.clear()
    running.everything.clear()
    nodes, grace = dict(running.nodes), running.grace_seconds
    yield running
    running.faults, running.nodes, running.grace_seconds = Faults(), nodes, grace
    for node in list(running.dead):
        running.remove_node(node)
    owned = {name for name, job in running.objects["jobs"].items() if "ownerReferences" in job["metadata"]}
    left = {**running.objects["jobs"], **running.objects["jobsets"]}
    for kind in ("jobsets", "jobs"):
        for name in list(running.objects[kind]):
            with suppress(Refused):  # the garbage collector has deleted it already
                running.delete(kind, name)
    until(lambda: not any(running.objects.values()))
    ends = {
        name: [each["type"] for each in job["status"].get("conditions", [])][-1:]
        for name, job in left.items()
        if name not in owned
    }
    assert all(end == ["Failed"] for end in ends.values()), f"left behind: {ends}"
