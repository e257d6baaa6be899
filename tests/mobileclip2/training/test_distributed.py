from __future__ import annotations

import json
import os
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch import distributed as dist

from mobileclip2.config.training import TrainSettings
from mobileclip2.errors import StoreError
from mobileclip2.models.sealed_tensors import read_metadata
from mobileclip2.progress import Step
from mobileclip2.training.distributed import World, join
from mobileclip2.training.gradients import Forward, backward, distribute
from mobileclip2.training.trainer import train
from tests.mobileclip2.training.tiny_training import (
    TRAININGS,
    TinySource,
    finish,
    start_world,
    tiny_batch,
    tiny_training,
)
from tests.processes import start_process


def test_a_single_process_has_world_size_one() -> None:
    with join("cpu") as world:
        assert (world.rank, world.size, world.is_main) == (0, 1, True)
        x = torch.ones(2, requires_grad=True)
        assert world.gather(x) is x
        world.barrier()


def test_the_timeout_of_processes_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(dist, "init_process_group", lambda *backend, **options: given.update(options))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "elsewhere"}.items():
        monkeypatch.setenv(name, value)
    with join("cpu", timedelta(minutes=3)):
        assert given["timeout"] == timedelta(minutes=3)


def losses_and_gradients(name: str, accumulate: int, world: World) -> dict[str, Tensor]:
    model, objective = tiny_training(name)
    batch = {
        key: (tensor.double() if tensor.is_floating_point() else tensor).chunk(world.size)[world.rank]
        for key, tensor in tiny_batch(8).items()
    }
    forward = distribute(Forward(model.double(), objective), world)
    parts = backward(forward, objective, batch, world, accumulate=accumulate, seed=lambda micro: micro)
    results = {part: world.mean(value) for part, value in parts.items()}
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None
        results[key] = parameter.grad
    return results


def write_losses_and_gradients(folder: Path) -> None:
    with join("cpu") as world:
        for name in TRAININGS:
            for accumulate in (1, 2):
                results = losses_and_gradients(name, accumulate, world)
                save_file(results, folder / f"{name}-{accumulate}-{world.rank}.safetensors")


@pytest.mark.slow
def test_processes_have_the_loss_and_gradients_of_the_joined_batch(tmp_path: Path) -> None:
    finish(*start_world(2, write_losses_and_gradients, tmp_path))
    for name in TRAININGS:
        expected = losses_and_gradients(name, 1, World(0, 1, torch.device("cpu")))
        for accumulate in (1, 2):
            for rank in (0, 1):
                found = load_file(tmp_path / f"{name}-{accumulate}-{rank}.safetensors")
                torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def train_reinforced(directory: Path) -> None:
    model, objective = tiny_training("reinforced")
    settings = TrainSettings(steps=20, batch=16, accumulate=2, learning_rate=1e-3, warmup=5, evaluate_every=10)
    train(
        model,
        objective,
        TinySource(),
        settings,
        directory,
        fingerprint="a",
        evaluate=lambda model: {"scale": float(model.logit_scale)},
    )


@pytest.mark.slow
def test_two_processes_train_like_one_process(tmp_path: Path) -> None:
    finish(*start_world(2, train_reinforced, tmp_path / "two"))
    finish(start_process(train_reinforced, tmp_path / "one"))
    assert {file.name for file in (tmp_path / "two").iterdir()} == {
        "metrics.jsonl",
        "timing.jsonl",
        "resume-0.safetensors",
        "model.safetensors",
    }
    one, two = ((tmp_path / run / "metrics.jsonl").read_text().splitlines() for run in ("one", "two"))
    assert len(one) == 20
    for a, b in zip(one, two, strict=True):
        assert json.loads(b) == pytest.approx(json.loads(a), rel=1e-3)
    weights = [load_file(tmp_path / run / "model.safetensors") for run in ("one", "two")]
    torch.testing.assert_close(*weights, rtol=0, atol=1e-3)


def train_from_different_checkpoints(folder: Path) -> None:
    rank = os.environ["RANK"]
    (folder / rank).mkdir(parents=True, exist_ok=True)
    settings = TrainSettings(steps=4, batch=16, learning_rate=1e-3, checkpoint_every=2)
    with pytest.raises(
        StoreError,
        match=r"the machines have no checkpoint in common \(this one is at step \d, others .*0, 4.*\); run again",
    ):
        train(*tiny_training("contrastive"), TinySource(), settings, folder / rank, fingerprint="a")


@pytest.mark.slow
def test_machines_that_fetched_different_checkpoints_do_not_train_together(tmp_path: Path) -> None:
    settings = TrainSettings(steps=4, batch=16, learning_rate=1e-3)
    train(*tiny_training("contrastive"), TinySource(), settings, tmp_path / "1", fingerprint="a")
    finish(*start_world(2, train_from_different_checkpoints, tmp_path))


def train_after_damage(folder: Path) -> None:
    """Train with a folder for each rank, like machines that download the checkpoints from a bucket."""
    settings = TrainSettings(steps=6, batch=16, learning_rate=1e-3, checkpoint_every=2)
    train(*tiny_training("contrastive"), TinySource(), settings, folder / os.environ["RANK"], fingerprint="a")


def stop_after_4(folder: Path) -> None:
    def stop(step: Step) -> None:
        if step.done == 5:
            raise KeyboardInterrupt

    settings = TrainSettings(steps=6, batch=16, learning_rate=1e-3, checkpoint_every=2, log_every=1)
    with pytest.raises(KeyboardInterrupt):
        train(*tiny_training("contrastive"), TinySource(), settings, folder, fingerprint="a", progress=stop)


@pytest.mark.slow
def test_machines_resume_from_the_newest_checkpoint_they_have_in_common(tmp_path: Path) -> None:
    finish(*start_world(2, train_after_damage, tmp_path / "whole"))
    finish(start_process(stop_after_4, tmp_path / "0"))
    shutil.copytree(tmp_path / "0", tmp_path / "1")
    assert {path.name: read_metadata(path)["step"] for path in (tmp_path / "1").glob("resume-*")} == {
        "resume-0.safetensors": "2",
        "resume-1.safetensors": "4",
    }
    damaged = tmp_path / "1" / "resume-1.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\x01")
    finish(*start_world(2, train_after_damage, tmp_path))
    found, expected = (
        json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[-1]) for name in ("0", "whole/0")
    )
    assert found == pytest.approx(expected, rel=1e-3)
    timing = [json.loads(line)["step"] for line in (tmp_path / "0" / "timing.jsonl").read_text().splitlines()]
    assert timing == [1, 2, 4, 6]  # steps 3 and 4 were trained again
