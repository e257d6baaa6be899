from __future__ import annotations

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from mobileclip2.config.training import TrainSettings
from mobileclip2.errors import ComputeError
from mobileclip2.models.sealed_tensors import read_metadata
from mobileclip2.progress import Step
from mobileclip2.training.preemption import StopRequest, stop_on_sigterm
from mobileclip2.training.trainer import train
from tests.mobileclip2.training.tiny_training import TinySource, finish, start_world, tiny_training
from tests.processes import start_process

STEPS, SIGNALED = 8, 3
SETTINGS = TrainSettings(steps=STEPS, batch=8, learning_rate=1e-3, log_every=1, checkpoint_every=STEPS)


def test_all_processes_agree_to_stop_one_step_after_a_signal() -> None:
    request = StopRequest()
    assert [request.agree(torch.tensor(mean)) for mean in (0.0, 0.5, 0.5)] == [False, False, True]


def test_an_existing_signal_handler_is_kept() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with stop_on_sigterm():
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with stop_on_sigterm() as request:
            os.kill(os.getpid(), signal.SIGTERM)
            assert request.received
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        with stop_on_sigterm() as request, ThreadPoolExecutor() as threads:
            threads.submit(stop_on_sigterm().__enter__).result()
    finally:
        signal.signal(signal.SIGTERM, before)


def train_until_signaled(folder: Path, checkpoint_every: int) -> None:
    """Train until SIGTERM. The last rank sends it to itself before step ``SIGNALED``."""
    model, objective = tiny_training("contrastive")
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    source = TinySource()
    read, count = source.sample, 0

    def sample(epoch: int, index: int):  # type: ignore[no-untyped-def]
        nonlocal count
        count += 1
        if rank == size - 1 and count == (SIGNALED - 1) * SETTINGS.batch // size + 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return read(epoch, index)

    source.sample = sample  # type: ignore[method-assign]
    steps: list[Step] = []
    with pytest.raises(ComputeError, match=rf"stopped by SIGTERM after step \d of {STEPS}; it is saved"):
        settings = SETTINGS.model_copy(update={"checkpoint_every": checkpoint_every})
        train(model, objective, source, settings, folder, fingerprint="a", progress=steps.append)
    if rank == 0:
        assert 1 <= steps[-1].done < STEPS


def train_to_the_end(folder: Path) -> None:
    model, objective = tiny_training("contrastive")
    train(model, objective, TinySource(), SETTINGS, folder, fingerprint="a")


@pytest.mark.slow
@pytest.mark.parametrize(("size", "every"), [(1, STEPS), (2, STEPS), (1, 1)])
def test_sigterm_to_one_process_saves_the_steps_of_all_processes(tmp_path: Path, size: int, every: int) -> None:
    """The result is the same whether a checkpoint is due after every step or only after the last one."""
    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    for folder in (stopped, whole):
        folder.mkdir()
    if size == 1:
        finish(start_process(train_until_signaled, stopped, every))
        finish(start_process(train_to_the_end, whole))
    else:
        finish(*start_world(size, train_until_signaled, stopped, every))
        finish(*start_world(size, train_to_the_end, whole))
    saved = max(int(read_metadata(file)["step"]) for file in stopped.glob("resume-*.safetensors"))
    records = [json.loads(line) for line in (stopped / "metrics.jsonl").read_text().splitlines()]
    assert 1 <= saved < STEPS and records[-1]["step"] == saved
    if size == 1:
        finish(start_process(train_to_the_end, stopped))
    else:
        finish(*start_world(size, train_to_the_end, stopped))
    for name in ("metrics.jsonl", "model.safetensors"):
        assert (stopped / name).read_bytes() == (whole / name).read_bytes()
