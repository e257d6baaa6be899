"""A kill at any moment loses at most the current shard or step, and the next run gives the same manifests."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
import torch

from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.store import storage
from tests.processes import run_process
from tests.tiny import make_tiny

T = TypeVar("T")

RENAMES_PER_PROCESS = (9, 10, 11)
"""Numbers of finished files at which processes are killed in turn, so that every stage is interrupted.

The end of a training writes nine files. The larger numbers exceed it, so that processes make progress.
"""


def materialize_everything(profile: Path) -> None:
    pipeline = Pipeline(load(profile))
    for asset, group in pipeline.stale():
        pipeline.materialize(asset.key, group)


def materialize_until(profile: Path, renames: int | None) -> None:
    """Materialize the graph, and die just before the n-th file is renamed."""
    if renames is not None:
        die_at(renames)
    materialize_everything(profile)


def die_at(renames: int) -> None:
    left = renames

    def counted(rename: Callable[[Path, Path], T]) -> Callable[[Path, Path], T]:
        def counting(temporary: Path, path: Path) -> T:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return rename(temporary, path)

        return counting

    Path.replace = counted(Path.replace)  # type: ignore[method-assign, assignment]
    storage.rename_exclusive = counted(storage.rename_exclusive)


def manifests(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("manifest.json")}


@pytest.mark.slow
def test_repeated_kills_give_the_manifests_of_an_undisturbed_run(tmp_path, undisturbed):
    torch.set_num_threads(1)
    expected = manifests(undisturbed.parent / "store")
    assert len(expected) > 40

    profile = make_tiny(tmp_path / "killed")
    deaths = 0
    while (
        exit_code := run_process(materialize_until, profile, RENAMES_PER_PROCESS[deaths % len(RENAMES_PER_PROCESS)])
    ) != 0:
        assert exit_code == -signal.SIGKILL
        deaths += 1
        assert deaths < 200, "the processes make no progress"
    assert deaths > 10
    store = tmp_path / "killed" / "store"
    assert manifests(store) == expected
    pipeline = Pipeline(load(profile))
    assert not list(pipeline.stale())
    for asset in pipeline.graph:
        for read in pipeline.read(asset):
            assert read.verify(read.manifest) == []
