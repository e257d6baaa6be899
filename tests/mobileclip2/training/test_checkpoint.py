from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from mobileclip2.errors import StoreError, WeightsError
from mobileclip2.training.checkpoint import delete_partial_files, load_checkpoint, save_checkpoint, save_weights
from tests.processes import start_process


def trained(width: int = 4, seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width))
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()
    return model, optimizer


def saved(path: Path, step: int = 7, seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer]:
    model, optimizer = trained(seed=seed)
    save_checkpoint(path, fingerprint="a", step=step, model=model, optimizer=optimizer)
    return model, optimizer


def test_everything_comes_back(tmp_path: Path) -> None:
    model, optimizer = saved(tmp_path / "resume.pt")
    other, other_optimizer = trained(seed=1)
    step = load_checkpoint(tmp_path / "resume.pt", fingerprint="a", model=other, optimizer=other_optimizer)
    assert step == 7
    torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(other_optimizer.state_dict()["state"], optimizer.state_dict()["state"], rtol=0, atol=0)


def load(path: Path, *, width: int = 4, fingerprint: str = "a") -> None:
    model, optimizer = trained(width)
    load_checkpoint(path, fingerprint=fingerprint, model=model, optimizer=optimizer)


def test_another_shape_is_named_by_its_tensors(tmp_path: Path) -> None:
    saved(tmp_path / "resume.pt")
    with pytest.raises(WeightsError, match=r"0\.weight is \[4, 3\], expected \[5, 3\].*and 3 more.*delete"):
        load(tmp_path / "resume.pt", width=5)


def test_another_run_is_named(tmp_path: Path) -> None:
    saved(tmp_path / "resume.pt")
    with pytest.raises(WeightsError, match="belongs to the run a, but this run is b"):
        load(tmp_path / "resume.pt", fingerprint="b")


@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "resume.pt"
    saved(path)
    path.write_bytes(path.read_bytes()[:-500] if content is None else content)
    with pytest.raises(WeightsError, match="not a checkpoint of this project"):
        load(path)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return exec, (f"open({str(tmp_path / 'sprung')!r}, 'w')",)

    torch.save({"fingerprint": "a", "step": 1, "model": Trap(), "optimizer": {}}, tmp_path / "resume.pt")
    with pytest.raises(WeightsError):
        load(tmp_path / "resume.pt")
    assert not (tmp_path / "sprung").exists()


def test_a_full_disk_is_named_and_the_old_checkpoint_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "resume.pt"
    saved(path)
    real = Path.open
    monkeypatch.setattr(
        Path,
        "open",
        lambda self, *a, **k: real(Path("/dev/full") if "partial" in self.name else self, *a, **k),
    )
    with pytest.raises(StoreError, match="disk is full"):
        saved(path, step=8)
    monkeypatch.undo()
    load(path)


def test_tied_weights_are_saved(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    save_weights(tmp_path / "model.safetensors", model)
    torch.testing.assert_close(load_file(tmp_path / "model.safetensors"), dict(model.state_dict()))


def save_forever(path: Path) -> None:
    model = nn.Linear(1000, 1000)
    optimizer = torch.optim.AdamW(model.parameters())
    for step in range(10_000):
        nn.init.constant_(model.weight, step)
        save_checkpoint(path, fingerprint="a", step=step, model=model, optimizer=optimizer)


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.001, 0.004])
def test_a_kill_while_saving_leaves_a_whole_checkpoint(tmp_path: Path, delay: float) -> None:
    path = tmp_path / "resume.pt"
    process = start_process(save_forever, path)
    wait_for(path.exists)
    wait_for(lambda: list(tmp_path.glob(".*.partial")))
    time.sleep(delay)
    process.kill()
    process.join()
    model = nn.Linear(1000, 1000)
    optimizer = torch.optim.AdamW(model.parameters())
    step = load_checkpoint(path, fingerprint="a", model=model, optimizer=optimizer)
    assert (model.weight == step).all()
    delete_partial_files(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["resume.pt"]
