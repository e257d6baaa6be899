from __future__ import annotations

import importlib.util

import pytest

from mobileclip2.executors.commands import TORCHRUN, WORKER, torchrun_command, worker_command


@pytest.mark.parametrize("module", [WORKER, TORCHRUN])
def test_a_command_starts_a_module_that_exists(module: str) -> None:
    assert importlib.util.find_spec(module) is not None


def test_torchrun_starts_the_same_worker_in_each_rank() -> None:
    worker = worker_command("python", "s3://bucket/store", ".orders/a.json")
    assert worker == ["python", "-m", WORKER, "s3://bucket/store", ".orders/a.json"]
    command = torchrun_command(worker, 8, ["--nnodes=2"])
    assert command == ["python", "-m", TORCHRUN, "--nnodes=2", "--nproc-per-node=8", *worker[1:]]
