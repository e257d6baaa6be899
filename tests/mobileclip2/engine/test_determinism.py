"""Test which outputs are equal byte for byte in another environment and on another processor: docs/determinism.md."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mobileclip2.config.profile import load
from mobileclip2.data import sidecar
from mobileclip2.engine.pipeline import Pipeline
from tests.processes import run_process
from tests.tiny import make_tiny

DATA_STAGES = ("raw_shards", "caption_corpus", "augmentations")
EMBEDDINGS = ("teacher_embeddings/wide/image", "teacher_embeddings/wide/text")
SAME_COSINE = 0.9999
"""lowest allowed cosine between the embeddings of one input on two processors"""
ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
import sys
from tests.mobileclip2.engine.test_determinism import materialize
materialize(sys.argv[1], int(sys.argv[2], 8))
"""


def materialize(profile: str, umask: int, stages: tuple[str, ...] = ()) -> None:
    """Materialize these stages, by default all."""
    os.umask(umask)
    pipeline = Pipeline(load(Path(profile)))
    for asset, group in pipeline.stale():
        if not stages or {asset.stage, asset.key} & set(stages):
            pipeline.materialize(asset.key, group)


def manifests(profile: Path) -> dict[str, bytes]:
    """Return the manifests by path."""
    store = profile.parent / "store"
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in store.rglob("manifest.json")}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("base") / "tiny")


def copied(profile: Path, folder: Path, *, reverse: bool = False) -> Path:
    """Copy a profile with its inputs, and create the files in the order of their names or in reverse order."""
    for file in sorted(profile.parent.rglob("*"), reverse=reverse):
        if file.is_file():
            target = folder / file.relative_to(profile.parent)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    return folder / profile.name


@pytest.mark.slow
def test_another_environment_gives_identical_manifests(base: Path, tmp_path: Path) -> None:
    """The runs differ in hash seed, time zone, locale, encoding, umask, folder and file order, not in arithmetic."""
    here = copied(base, tmp_path / "here")
    assert run_process(materialize, str(here), 0o022, MOBILECLIP2_CACHE=str(tmp_path / "cache")) == 0
    there = copied(base, tmp_path / "another folder" / "with spaces", reverse=True)
    surroundings = {"PYTHONHASHSEED": "77", "TZ": "Asia/Kathmandu", "LC_ALL": "C", "PYTHONUTF8": "0"}
    values = {**os.environ, **surroundings, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    values["MOBILECLIP2_CACHE"] = str(tmp_path / "other cache")
    command = [sys.executable, "-c", PROGRAM, str(there), "077"]
    done = subprocess.run(command, cwd="/", env=values, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(manifests(here)) > 35 and manifests(there) == manifests(here)


def on_processor(capability: str, profile: str, stages: tuple[str, ...]) -> None:
    """Materialize stages with the instructions that the environment allows.

    torch chooses its instructions at its first operation.
    """
    assert torch.backends.cpu.get_cpu_capability() == capability
    materialize(profile, 0o022, stages)


def computed(profile: Path, **processor: str) -> tuple[dict[str, bytes], dict[str, tuple[list[str], np.ndarray]]]:
    """Compute the data stages, and the embeddings with given weights.

    Return the manifests of the data stages by path, and the keys and values of the embeddings by the path of their file
    in the store.
    """
    stages = (*DATA_STAGES, "teacher", *EMBEDDINGS)
    capability = processor.get("ATEN_CPU_CAPABILITY", torch.backends.cpu.get_cpu_capability()).upper()
    processor["MOBILECLIP2_CACHE"] = str(profile.parent.with_name("cache"))
    assert run_process(on_processor, capability, str(profile), stages, **processor) == 0
    store, embeddings = profile.parent / "store", {}
    for path in store.glob("teacher_embeddings/**/*.parquet"):
        keys, bits = sidecar.read_embeddings(path)
        # bf16 is the upper half of a float32
        embeddings[path.relative_to(store).as_posix()] = keys, (bits.astype(np.uint32) << 16).view(np.float32)
    written = manifests(profile).items()
    return {path: content for path, content in written if path.split("/")[0] in DATA_STAGES}, embeddings


@pytest.fixture(scope="module")
def expected(
    base: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, bytes], dict[str, tuple[list[str], np.ndarray]]]:
    return computed(copied(base, tmp_path_factory.mktemp("expected") / "tiny"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "processor",
    [
        {"OMP_NUM_THREADS": "2"},
        {"ONEDNN_MAX_CPU_ISA": "AVX2"},
        {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default"},
    ],
    ids=["threads", "avx2", "sse41"],
)
def test_other_processors_give_identical_data_and_nearly_parallel_embeddings(
    base: Path,
    expected: tuple[dict[str, bytes], dict[str, tuple[list[str], np.ndarray]]],
    tmp_path: Path,
    processor: dict[str, str],
) -> None:
    """The bytes of embeddings and their data versions may differ between processors."""
    data, embeddings = computed(copied(base, tmp_path / "tiny"), **processor)
    assert data == expected[0] and {path.split("/")[0] for path in data} == set(DATA_STAGES)
    assert embeddings.keys() == expected[1].keys()
    assert {path.rsplit("/", 3)[0] for path in embeddings} >= set(EMBEDDINGS)
    for path, (keys, values) in embeddings.items():
        expected_keys, directions = expected[1][path]
        assert keys == expected_keys and values.shape == directions.shape
        norms = np.linalg.norm(values, axis=-1) * np.linalg.norm(directions, axis=-1)
        assert ((values * directions).sum(-1) / norms).min() > SAME_COSINE
