"""A stage that reads a damaged file names the file, and the next run recomputes it. Damage never changes a result."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest
import torch

from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.errors import DamagedOutput
from mobileclip2.store import Artifact
from tests.mobileclip2.engine.test_recovery import manifests

READERS = {
    "raw_shards": "augmentations",
    "augmentations": "teacher_embeddings/wide/image",
    "captioner/first": "synthetic_captions/first",
    "synthetic_captions/first": "teacher_embeddings/wide/first",
    "teacher/wide": "teacher_embeddings/wide/text",
    "teacher_embeddings/wide/image": "reinforced_dataset",
    "reinforced_dataset": "student/pupil",
    "student/pupil": "evaluation/pupil",
}
"""stage whose files are damaged -> stage that reads them"""


@pytest.fixture
def finished(undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the profile of a copy of a finished store, on a machine with an empty cache."""
    torch.set_num_threads(1)
    monkeypatch.setenv("MOBILECLIP2_CACHE", str(tmp_path / "cache"))
    shutil.copytree(undisturbed.parent, tmp_path / "tiny")
    return tmp_path / "tiny" / undisturbed.name


def flip(path: Path, position: int) -> None:
    """Flip one bit, and keep the size and the times of the file, as bit rot does."""
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(position)
        (byte,) = file.read(1)
        file.seek(position)
        file.write(bytes([byte ^ 1 << position % 8]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def artifacts(profile: Path) -> list[Artifact]:
    pipeline = Pipeline(load(profile))
    return [artifact for key in pipeline.graph for artifact in pipeline.read(key)]


def test_damage_to_any_kind_of_file_is_detected(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choose, kinds = random.Random(0), set()
    for artifact in artifacts(finished):
        for file in artifact.manifest.files:
            path = finished.parent / "store" / artifact.key(file.name)
            whole = path.read_bytes()
            kinds.add(path.suffix)
            for position in {0, len(whole) - 1, *(choose.randrange(len(whole)) for _ in range(3))}:
                flip(path, position)
                shutil.copy2(path, path.with_name("copy"))  # with another inode, as after a restart of the process
                path.with_name("copy").replace(path)
                with pytest.raises(DamagedOutput, match=f"{path.name}: it no longer matches its manifest"):
                    artifact.fetch(file.name)
                path.write_bytes(whole)
            for damaged in (whole[: choose.randrange(len(whole))], bytes(len(whole)), whole + b"\0"):
                path.write_bytes(damaged)
                with pytest.raises(DamagedOutput, match=f"{path.name}: it no longer matches its manifest"):
                    artifact.fetch(file.name)
            path.write_bytes(whole)
            assert artifact.fetch(file.name) == path
    assert {".parquet", ".tar", ".safetensors", ".json", ".jsonl"} <= kinds


def test_a_flipped_manifest_bit_is_detected_or_affects_only_displayed_fields(finished: Path) -> None:
    """Reasons of skipped samples and the name of the slice are only shown. All other fields are checked."""
    artifact = next(each for each in artifacts(finished) if each.summary.asset == "raw_shards" and each.summary.skipped)
    expected = artifact.manifest
    shown = {"skip_reasons", "part", "schema_version"}
    path = finished.parent / "store" / artifact.key("manifest.json")
    whole = path.read_bytes()
    silent = 0
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1 << position % 8]) + whole[position + 1 :])
        try:
            found = artifact.read_manifest()
        except DamagedOutput as error:
            assert "manifest.json" in str(error)
            continue
        assert found is not None
        assert found.model_dump(exclude=shown) == expected.model_dump(exclude=shown)
        silent += 1
    assert silent < len(whole) / 5


@pytest.mark.slow
@pytest.mark.parametrize("damaged", READERS)
def test_a_damaged_file_is_named_and_the_next_run_recomputes_it(finished: Path, damaged: str) -> None:
    store = finished.parent / "store"
    expected = manifests(store)
    reader = READERS[damaged]
    pipeline = Pipeline(load(finished))
    for read in pipeline.read(reader):
        (store / read.key("manifest.json")).unlink()
    names = []
    for artifact in pipeline.read(damaged):
        for file in artifact.manifest.files:
            if not file.name.endswith((".skipped.parquet", ".jsonl")):
                names.append(file.name)
                flip(store / artifact.key(file.name), file.size // 2)
    pipeline = Pipeline(load(finished))
    groups = [group for asset, group in pipeline.stale() if asset.key == reader]
    assert groups
    for group in groups:
        with pytest.raises(DamagedOutput, match="it no longer matches its manifest; run again") as error:
            pipeline.materialize(reader, group)
        assert any(name in str(error.value) for name in names)
    assert manifests(store).keys() < expected.keys()
    for _ in range(30):  # each run finds one more damaged artifact
        pipeline = Pipeline(load(finished))
        try:
            for asset, group in pipeline.stale():
                pipeline.materialize(asset.key, group)
        except DamagedOutput:
            continue
        break
    assert manifests(store) == expected
