from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mobileclip2.errors import StoreError, WeightsError
from mobileclip2.models import sealed_tensors
from mobileclip2.models.sealed_tensors import read_metadata, read_sealed, write_sealed
from mobileclip2.training.checkpoint import SLOTS, Checkpoint, Checkpoints, delete_partial_files
from tests.processes import start_process
from tests.waiting import until

State = tuple[nn.Module, torch.optim.Optimizer]


def trained(width: int = 4, seed: int = 0) -> State:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width))
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()
    return model, optimizer


def of(folder: Path, state: State, fingerprint: str = "a") -> Checkpoints:
    return Checkpoints(folder, *state, fingerprint=fingerprint, total_steps=9)


def saved(folder: Path, *steps: int) -> State:
    """Save checkpoints after the given steps, and return the state."""
    state = trained()
    checkpoints = of(folder, state)
    for step in steps or (7,):
        checkpoints.save(step, metrics="m")
    return state


def newest(folder: Path, *, width: int = 4, fingerprint: str = "a", at_most: float = math.inf) -> Checkpoint | None:
    return of(folder, trained(width, seed=1), fingerprint).newest(at_most=at_most, metrics=lambda _: "m")


def test_a_restored_checkpoint_equals_the_saved_state(tmp_path: Path) -> None:
    model, optimizer = saved(tmp_path)
    other, other_optimizer = trained(seed=1)
    found = newest(tmp_path)
    assert found is not None and found.step == 7
    of(tmp_path, (other, other_optimizer)).restore(found)
    torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(other_optimizer.state_dict(), optimizer.state_dict(), rtol=0, atol=0)


def test_moments_have_the_layout_of_their_parameters(tmp_path: Path) -> None:
    model = nn.Conv2d(4, 4, 3).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(1, 4, 8, 8)).sum().backward()
    optimizer.step()
    checkpoints = of(tmp_path, (model, optimizer))
    checkpoints.save(1, metrics="m")
    found = checkpoints.newest(at_most=math.inf, metrics=lambda _: "m")
    assert found is not None
    before = optimizer.state[model.weight]["exp_avg"].clone()
    checkpoints.restore(found)
    after = optimizer.state[model.weight]["exp_avg"]
    assert after.stride() == model.weight.stride() == before.stride() and torch.equal(after, before)


def test_a_parameter_without_a_gradient_is_saved_too(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    optimizer = torch.optim.AdamW(model.parameters())
    model[0](torch.randn(1, 2)).sum().backward()
    optimizer.step()
    checkpoints = of(tmp_path, (model, optimizer))
    checkpoints.save(1, metrics="m")
    found = checkpoints.newest(at_most=math.inf, metrics=lambda _: "m")
    assert found is not None
    checkpoints.restore(found)
    assert optimizer.state[model[1].weight]["step"] == 0


def test_the_two_latest_checkpoints_are_kept(tmp_path: Path) -> None:
    saved(tmp_path, 2, 3, 4)
    assert {path.name: read_metadata(path)["step"] for path in tmp_path.iterdir()} == dict(
        zip(SLOTS, ("4", "3"), strict=True)
    )
    found, earlier = newest(tmp_path), newest(tmp_path, at_most=3)
    assert found is not None and earlier is not None and (found.step, earlier.step) == (4, 3)
    assert newest(tmp_path, at_most=2) is None


def test_a_resumed_training_keeps_the_checkpoint_that_it_resumed_from(tmp_path: Path) -> None:
    state = saved(tmp_path, 2, 3, 4)
    checkpoints = of(tmp_path, state)
    found = checkpoints.newest(at_most=math.inf, metrics=lambda _: "m")
    assert found is not None and found.path.name == SLOTS[0]
    checkpoints.restore(found)
    assert checkpoints.save(5, metrics="m") == SLOTS[1]


def damage(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 16
    path.write_bytes(data)


@pytest.mark.parametrize("position", [0, 3, 60, 200, -200, -1])
def test_a_damaged_checkpoint_falls_back_to_the_previous_one(
    tmp_path: Path, position: int, caplog: pytest.LogCaptureFixture
) -> None:
    saved(tmp_path, 2, 3)
    damage(tmp_path / SLOTS[1], position)
    found = newest(tmp_path)
    assert found is not None and found.step == 2
    assert f"{SLOTS[1]}: damaged" in caplog.text


def test_two_damaged_checkpoints_restart_the_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved(tmp_path, 2, 3)
    for slot in SLOTS:
        (tmp_path / slot).write_bytes(b"")
    assert newest(tmp_path) is None
    assert all(f"{slot}: damaged" in caplog.text for slot in SLOTS)
    assert "no intact checkpoint is left; the training starts from the beginning" in caplog.text
    assert "delete" not in caplog.text


def test_an_intact_checkpoint_gives_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    saved(tmp_path, 2, 3)
    assert newest(tmp_path) and not caplog.records


def test_other_metrics_count_as_damage(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved(tmp_path, 2, 3)
    checkpoints = of(tmp_path, trained())
    found = checkpoints.newest(at_most=math.inf, metrics=lambda step: "m" if step == 2 else "other")
    assert found is not None and found.step == 2
    assert f"{SLOTS[1]}: the metrics of its training up to step 3 are damaged" in caplog.text


def test_a_checkpoint_of_another_run_is_rejected(tmp_path: Path) -> None:
    saved(tmp_path)
    with pytest.raises(WeightsError, match="belongs to the run a, but this run is b"):
        newest(tmp_path, fingerprint="b")


def test_a_shape_mismatch_is_reported_by_tensor(tmp_path: Path) -> None:
    saved(tmp_path)
    with pytest.raises(WeightsError, match=r"model\.0\.weight is \[4, 3\], expected \[5, 3\].*and \d+ more"):
        newest(tmp_path, width=5)


def without(part: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if part not in name}


def replaced(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {**tensors, name: change(tensors[name])}


ALTERED = {
    "no optimizer state": (without("optimizer."), r"optimizer\.\S+ is missing"),
    "missing moments": (without("optimizer.0.weight.exp_avg"), r"optimizer\.0\.weight\.exp_avg is missing"),
    "missing weights": (without("model.0.bias"), r"model\.0\.bias is missing"),
    "an unknown tensor": (lambda tensors: {**tensors, "more": torch.ones(1)}, "more is unknown"),
    "nan weights": (replaced("model.0.bias", lambda x: x * math.nan), r"model\.0\.bias contains NaN"),
    "infinite moments": (replaced("optimizer.0.bias.exp_avg", lambda x: x / 0), "contains NaN or infinity"),
    "negative moments": (replaced("optimizer.0.bias.exp_avg_sq", lambda x: -x - 1), "not a state of AdamW"),
    "a later moment": (replaced("optimizer.0.bias.step", lambda x: x + 99), "not a state of AdamW after 7 steps"),
    "another dtype": (replaced("model.0.bias", lambda x: x.half()), r"is torch\.float16, expected torch\.float32"),
    "another shape": (replaced("model.0.bias", lambda x: x[:2]), r"is \[2\], expected \[4\]"),
}


@pytest.mark.parametrize("name", ALTERED)
def test_altered_tensors_are_refused(tmp_path: Path, name: str) -> None:
    saved(tmp_path)
    alter, message = ALTERED[name]
    tensors, metadata = read_sealed(tmp_path / SLOTS[0])
    write_sealed(tmp_path / SLOTS[0], alter(tensors), metadata)
    with pytest.raises(WeightsError, match=f"does not fit this training: .*{message}.*Restore the file, or move it"):
        newest(tmp_path)


@pytest.mark.parametrize("step", ["10", "-1", "0", "1.5", "nan", "", "9" * 5000, "٣", "7 "])
def test_an_altered_step_is_refused(tmp_path: Path, step: str) -> None:
    saved(tmp_path)
    tensors, metadata = read_sealed(tmp_path / SLOTS[0])
    write_sealed(tmp_path / SLOTS[0], tensors, {**metadata, "step": step})
    with pytest.raises(WeightsError, match=r"its step is .* not a number from 1 to 9"):
        newest(tmp_path)


@pytest.mark.parametrize("fields", [{"more": "1"}, {"metrics": None}, {"step": None}])
def test_unknown_and_missing_fields_are_refused(tmp_path: Path, fields: dict[str, str | None]) -> None:
    saved(tmp_path)
    tensors, metadata = read_sealed(tmp_path / SLOTS[0])
    changed = {name: value for name, value in {**metadata, **fields}.items() if value is not None}
    write_sealed(tmp_path / SLOTS[0], tensors, changed)
    with pytest.raises(WeightsError, match=f"the fields {next(iter(fields))} are missing or unknown"):
        newest(tmp_path)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return exec, (f"open({str(tmp_path / 'sprung')!r}, 'w')",)

    torch.save({"fingerprint": "a", "step": 1, "model": Trap(), "optimizer": {}}, tmp_path / SLOTS[0])
    assert newest(tmp_path) is None
    assert not (tmp_path / "sprung").exists()


def test_a_full_disk_keeps_both_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, 2, 3)

    def full(*_: object) -> None:
        raise sealed_tensors.SafetensorError("No space left on device (os error 28)")

    monkeypatch.setattr(sealed_tensors, "save_file", full)
    with pytest.raises(StoreError, match="No space left on device"):
        saved(tmp_path, 4)
    assert {path.name for path in tmp_path.iterdir()} == set(SLOTS)
    found = newest(tmp_path)
    assert found is not None and found.step == 3


def test_tied_weights_are_saved(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    optimizer = torch.optim.AdamW(model.parameters())
    checkpoints = of(tmp_path, (model, optimizer))
    checkpoints.save(1, metrics="m")
    assert checkpoints.newest(at_most=math.inf, metrics=lambda _: "m")


def wide() -> State:
    model = nn.Linear(1000, 1000)
    return model, torch.optim.AdamW(model.parameters())


def save_forever(folder: Path) -> None:
    model, optimizer = wide()
    checkpoints = Checkpoints(folder, model, optimizer, fingerprint="a", total_steps=10_000)
    for step in range(1, 10_000):
        nn.init.constant_(model.weight, step)
        checkpoints.save(step, metrics="m")


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.001, 0.004])
def test_a_kill_during_a_save_leaves_two_intact_checkpoints(tmp_path: Path, delay: float) -> None:
    process = start_process(save_forever, tmp_path)
    until((tmp_path / SLOTS[1]).exists)
    until(lambda: list(tmp_path.glob(".*.partial")))
    time.sleep(delay)
    process.kill()
    process.join()
    steps = []
    for slot in SLOTS:
        tensors, metadata = read_sealed(tmp_path / slot)
        assert (tensors["model.weight"] == int(metadata["step"])).all()
        steps.append(int(metadata["step"]))
    assert abs(steps[0] - steps[1]) == 1
    checkpoints = Checkpoints(tmp_path, *wide(), fingerprint="a", total_steps=10_000)
    found = checkpoints.newest(at_most=math.inf, metrics=lambda _: "m")
    assert found is not None and found.step == max(steps)
    delete_partial_files(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == set(SLOTS)
