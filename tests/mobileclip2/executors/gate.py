"""Stop the pods of a group in the middle of a chunk, and count the files that they write."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.cluster import FakeCluster, Object
from tests.waiting import until


def manifests(profile: Path) -> dict[str, bytes]:
    """Return all manifests of the profile's store by relative path."""
    store = profile.parent / "store"
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in store.rglob("manifest.json")}


class Gate:
    """Stops every pod of a stage at its ``at``-th file until :meth:`open`, and counts how often each file is computed."""

    def __init__(self, cluster: FakeCluster, folder: Path, at: int = 3, stage: str = "teacher_embeddings") -> None:
        self.path, self.writes = folder / "gate", folder / "writes"
        self.path.touch()
        self.writes.touch()
        held = {"writes": str(self.writes), "gate": str(self.path), "at": at}

        def gate(pod: Object) -> Object:
            return held if pod["metadata"]["labels"].get("app.kubernetes.io/component") == stage else {}

        cluster.faults.gate = gate

    def computed(self) -> Counter[str]:
        return Counter(line for line in self.writes.read_text().splitlines() if line.endswith(".parquet"))

    def wait_for(self, count: int, seconds: float = 240) -> None:
        until(lambda: sum(self.computed().values()) >= count, seconds)

    def open(self) -> None:
        self.path.unlink()

    @property
    def repeated(self) -> int:
        return sum(self.computed().values()) - len(self.computed())
