from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pytest

from mobileclip2.data import sidecar
from mobileclip2.data.tar import TarWriter
from mobileclip2.store.truncation import is_complete


@pytest.fixture(params=["table.parquet", "shard.tar"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / request.param
    if path.suffix == ".parquet":
        sidecar.write(pa.table({"key": ["a", "b"]}), path)
    else:
        with TarWriter(path) as tar:
            tar.write("a", {"jpg": bytes(range(1, 256)) * 100})
    return path


def test_a_file_that_lacks_its_end_is_truncated(path: Path) -> None:
    assert is_complete(path)
    for size in (path.stat().st_size // 2, 3, 0):
        os.truncate(path, size)
        assert not is_complete(path)


def test_files_without_an_end_marker_count_as_complete(tmp_path: Path) -> None:
    for name in ("metrics.jsonl", "weights.safetensors"):
        (tmp_path / name).write_bytes(b"")
        assert is_complete(tmp_path / name)
