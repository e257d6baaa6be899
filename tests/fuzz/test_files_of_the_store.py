"""Sidecars, manifests, leases, journals, lineages and messages of workers."""

from __future__ import annotations

from pathlib import Path

import pytest

from mobileclip2.data import sidecar
from mobileclip2.engine import gc
from mobileclip2.engine.lineage import read_lineage
from mobileclip2.executors.messages import parse_output
from mobileclip2.store import ArtifactFolder, LocalStorage, lease
from mobileclip2.store.storage import file_sha256
from mobileclip2.training.journal import Journal
from tests.fuzz.harness import fuzz


def test_sidecar(tmp_path: Path) -> None:
    path = tmp_path / "fuzzed.parquet"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        sidecar.read(path)

    fuzz("sidecar", read)


def test_embeddings(tmp_path: Path) -> None:
    path = tmp_path / "fuzzed.parquet"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        sidecar.read_embeddings(path)

    fuzz("embeddings", read)


def test_manifest(tmp_path: Path) -> None:
    output = ArtifactFolder(LocalStorage(tmp_path), "augmentations", "0123456789abcdef", "g00")

    def read(data: bytes) -> None:
        output.write("manifest.json", data)
        output.read_manifest()

    fuzz("manifest", read)


def test_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "WRITE_SECONDS", 0.0)
    storage = LocalStorage(tmp_path)
    with lease.acquire(storage, ["a"]):
        (path,) = (tmp_path / lease.FOLDER).iterdir()

        def read(data: bytes) -> None:
            path.write_bytes(data)
            gc.NeededByRuns(storage, []).paths()

        fuzz("lease", read)


def test_journal(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        Journal(path).last()

    fuzz("journal", read)


def test_lineage(tmp_path: Path) -> None:
    path = tmp_path / "lineage.json"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        read_lineage(path)

    fuzz("lineage", read)


def test_messages() -> None:
    fuzz("messages", lambda data: parse_output(data.decode(errors="replace")))


def test_the_corpus_is_small() -> None:
    from tests.fuzz.harness import CORPUS

    files = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 300_000
    assert len({file_sha256(path) for path in files}) == len(files), "two equal files"
