"""Chunks in a process pool, and training with torchrun."""

import shutil
import time
from concurrent.futures import ProcessPoolExecutor, wait

import pytest
import torch

from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import InProcessExecutor, Pipeline
from mobileclip2.errors import ComputeError, ShardError
from mobileclip2.executors import executor_of
from mobileclip2.executors.local import LocalExecutor, share_devices
from pipelines.processes import process_id
from tests.processes import run_process, start_process
from tests.waiting import until


def manifests(profile):
    store = profile.parent / "store"
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in store.rglob("manifest.json")}


def test_the_profile_configures_the_executor(tiny):
    assert executor_of(load(tiny)).processes == 1
    tiny.write_text(f"{tiny.read_text()}\ncompute: {{processes: 3}}\n")
    assert executor_of(load(tiny)).processes == 3


def test_executor_settings_do_not_change_fingerprints(tiny):
    before = Pipeline(load(tiny)).materialize("raw_shards", "g00").data_version
    tiny.write_text(f"{tiny.read_text()}\ncompute: {{processes: 3, kubernetes: {{image: i}}}}\n")
    pipeline = Pipeline(load(tiny))
    assert pipeline.materialize("raw_shards", "g00").computed == []
    assert pipeline.materialize("raw_shards", "g00").data_version == before


def share_cores(cores: int, processes: int, expected: int) -> None:
    torch.set_num_threads(cores)
    share_devices(0, processes)
    assert torch.get_num_threads() == expected


@pytest.mark.parametrize(("cores", "processes", "expected"), [(8, 3, 2), (2, 3, 1)])
def test_processes_share_the_cores(cores, processes, expected):
    assert run_process(share_cores, cores, processes, expected) == 0


@pytest.mark.slow
def test_a_pool_gives_the_manifests_of_one_process(tiny, tmp_path):
    other = shutil.copytree(tiny.parent, tmp_path / "other") / tiny.name
    steps = []
    for profile, compute in ((tiny, InProcessExecutor()), (other, LocalExecutor(2))):
        pipeline = Pipeline(load(profile), compute)
        pipeline.materialize("raw_shards", "g00", steps.append)
        pipeline.materialize("augmentations", "g00", steps.append)
    assert manifests(other) == manifests(tiny)
    assert (steps[-1].done, steps[-1].total, steps[-1].unit) == (2, 2, "shards")
    assert not list((other.parent / "store" / ".orders").iterdir())


@pytest.mark.slow
def test_a_rejected_shard_gives_the_error_of_one_process(tiny):
    tiny.write_text(tiny.read_text().replace("max_bad_share: 0.3", "max_bad_share: 0.01"))
    with pytest.raises(ShardError, match="more than the accepted"):
        Pipeline(load(tiny), LocalExecutor(2)).materialize("raw_shards", "g00")


@pytest.mark.slow
def test_a_worker_that_dies_while_others_start_is_reported(tiny, monkeypatch):
    """A machine under load takes seconds to start a process."""
    submit = ProcessPoolExecutor.submit

    def submit_slowly(pool, *arguments):
        future = submit(pool, *arguments)
        wait([future], 20)
        return future

    monkeypatch.setattr("mobileclip2.executors.local._run_chunk", die)
    monkeypatch.setattr(ProcessPoolExecutor, "submit", submit_slowly)
    with pytest.raises(ComputeError, match="raw_shards: a worker process died by SIGKILL"):
        Pipeline(load(tiny), LocalExecutor(2)).materialize("raw_shards", "g00")


@pytest.mark.slow
def test_a_killed_worker_is_reported(tiny, monkeypatch):
    monkeypatch.setattr("mobileclip2.executors.local._run_chunk", die)
    with pytest.raises(
        ComputeError, match=r"raw_shards: a worker process died by SIGKILL.* lower 'batch' or 'compute\.processes'"
    ):
        Pipeline(load(tiny), LocalExecutor(2)).materialize("raw_shards", "g00")
    assert not list(tiny.parent.rglob("manifest.json"))


@pytest.mark.slow
def test_the_workers_of_a_killed_run_end_with_it(tiny, tmp_path, monkeypatch):
    """One worker waits for work and one computes. Each would otherwise keep its memory, and its GPU memory, forever."""
    monkeypatch.setenv("PIDS", str(tmp_path))
    run = start_process(compute_for_ever, tiny)
    workers = until(lambda: len(found := pids(tmp_path)) == 2 and found)
    run.kill()
    run.join()
    until(lambda: not [pid for pid in workers if process_id(pid)])


def compute_for_ever(profile):
    from mobileclip2.executors import local

    local._run_chunk = stay
    Pipeline(load(profile), LocalExecutor(2)).materialize("raw_shards", "g00")


def stay(store, key, index, of):
    import os
    from pathlib import Path

    (Path(os.environ["PIDS"]) / f"{os.getpid()}.pid").touch()
    time.sleep(600 if index else 2)


def pids(folder):
    return [int(path.stem) for path in folder.glob("*.pid")]


def die(*_):
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)
