"""Truncated files of a group without a manifest are found and recomputed."""

import os
from pathlib import Path

import pyarrow as pa
import pytest

from mobileclip2.config.profile import load
from mobileclip2.data import sidecar
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.errors import DamagedOutput
from mobileclip2.store import ArtifactFolder, LocalStorage
from mobileclip2.store.storage import file_sha256, has_end


def files(profile):
    store = profile.parent / "store"
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in store.glob("raw_shards/**/*.*")}


def kill_before_manifest(profile):
    """Make the store look as if a run was killed before it wrote the manifest of g00, and return the folder of g00."""
    (manifest,) = profile.parent.glob("store/raw_shards/*/g00/manifest.json")
    manifest.unlink()
    for path in list(manifest.parent.iterdir()):
        path.with_name(f"{path.name}.sha256").write_text(file_sha256(path))
    return manifest.parent


@pytest.mark.parametrize("damage", ["truncated", "flipped", "zeros"])
@pytest.mark.parametrize("which", ["00000*.skipped.parquet", "00000-????????.parquet"])
def test_a_damaged_file_of_an_unfinished_group_is_recomputed(tiny, which, damage, caplog):
    Pipeline(load(tiny)).materialize("raw_shards", "g00")
    expected = files(tiny)
    folder = kill_before_manifest(tiny)
    (path,) = folder.glob(which)
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(
        {
            "truncated": data[:middle],
            "flipped": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
            "zeros": bytes(len(data)),
        }[damage]
    )
    Pipeline(load(tiny)).materialize("raw_shards", "g00")
    assert files(tiny) == expected
    assert f"{path.name}: truncated or damaged; its shard is recomputed" in caplog.text
    assert "00002-" not in caplog.text


def test_an_unfinished_group_keeps_its_intact_shards(tiny, caplog, monkeypatch):
    Pipeline(load(tiny)).materialize("raw_shards", "g00")
    expected = files(tiny)
    kill_before_manifest(tiny)
    monkeypatch.setattr("mobileclip2.stages.raw_shards.validate_shard", lambda *_, **__: pytest.fail("computed again"))
    Pipeline(load(tiny)).materialize("raw_shards", "g00")
    assert files(tiny) == expected and not caplog.records


def test_files_without_hashes_are_recomputed(tiny, caplog):
    """If a user deletes a manifest, no recorded hash confirms that its files are intact."""
    Pipeline(load(tiny)).materialize("raw_shards", "g00")
    expected = files(tiny)
    (manifest,) = tiny.parent.glob("store/raw_shards/*/g00/manifest.json")
    manifest.unlink()
    Pipeline(load(tiny)).materialize("raw_shards", "g00")
    assert files(tiny) == expected and caplog.text.count("its shard is recomputed") == 2


def test_commit_deletes_partial_files_of_killed_writers(tiny):
    pipeline = Pipeline(load(tiny))
    task = pipeline.task_for(pipeline.graph["raw_shards"], pipeline.graph["raw_shards"].slices["whole"], "g00")
    left = Path(pipeline.storage.url, task.output.key(".00000.parquet.123.partial"))
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    pipeline.materialize("raw_shards", "g00")
    assert not left.exists() and isinstance(task.output, ArtifactFolder)


def test_truncated_files_are_detected(tmp_path, tiny_template):
    side = tmp_path / "side.parquet"
    side.write_bytes(sidecar.to_bytes(pa.table({"key": ["a", "b"]})))
    tar = tmp_path / "shard.tar"
    tar.write_bytes((tiny_template / "shards" / "00000.tar").read_bytes())
    for path in (side, tar):
        assert has_end(path)
        os.truncate(path, path.stat().st_size // 2)
        assert not has_end(path)
        os.truncate(path, 0)
        assert not has_end(path)


def test_a_manifest_rejects_truncated_files(tmp_path):
    output = ArtifactFolder(LocalStorage(tmp_path), "a", "f", "g00")
    output.write("x.parquet", b"PAR1 and half of the")
    with pytest.raises(DamagedOutput, match=r"a/f/g00/x\.parquet: the file is truncated; run again to recompute it"):
        output.describe(["x.parquet"])
