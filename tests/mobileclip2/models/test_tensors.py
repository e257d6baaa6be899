from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mobileclip2.errors import StoreError
from mobileclip2.models.build import from_config
from mobileclip2.models.tensors import interpolated, mismatch, write_tensors
from mobileclip2.training.trainer import train_mode
from tests.mobileclip2.stages.small_wise_ft import PUPIL

States = tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]


def test_tensors_that_share_memory_are_written_unchanged(tmp_path: Path) -> None:
    weight = torch.arange(6.0).view(2, 3)
    write_tensors(tmp_path / "a.safetensors", {"weight": weight, "tied": weight, "view": weight.T})
    found = load_file(tmp_path / "a.safetensors")
    assert torch.equal(found["tied"], weight) and torch.equal(found["view"], weight.T)


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"a": torch.ones(1)})
    before = path.read_bytes()

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StoreError, match="disk is full"):
        write_tensors(path, {"a": torch.zeros(1)})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_differences_are_described_in_a_fixed_order() -> None:
    expected = {name: torch.zeros(2, 3) for name in "abc"}
    assert mismatch(dict(expected), expected) == ""
    assert mismatch({"a": torch.zeros(3, 2), "b": expected["b"], "x": torch.zeros(1)}, expected) == (
        "c is missing; x is unknown; a is [3, 2], expected [2, 3]"
    )
    assert mismatch({}, {name: torch.zeros(1) for name in "abcde"}).endswith("c is missing; and 2 more")


@pytest.fixture(scope="module")
def states() -> States:
    """Return state dicts of a model with batch norm before and after a few steps."""
    torch.manual_seed(0)
    model: Any = from_config({"model_cfg": PUPIL}).model
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train_mode(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        model.encode_image(torch.randn(8, 3, 32, 32)).square().sum().backward()
        optimizer.step()
    return start, model.state_dict()


def test_weights_zero_and_one_return_the_models_bit_for_bit(states: States) -> None:
    start, end = states
    start = start | {"visual.trunk.head.fc.bias": torch.tensor([-0.0, 1e-45])}
    end = end | {"visual.trunk.head.fc.bias": torch.tensor([1.0, 3e38])}
    for weight, expected in ((0, start), (0.0, start), (1, end), (1.0, end)):
        found = interpolated(start, end, weight)
        assert list(found) == list(expected)
        for name, tensor in expected.items():
            assert found[name].numpy().tobytes() == tensor.numpy().tobytes(), name


def test_parameters_and_statistics_are_interpolated_but_counts_are_not(states: States) -> None:
    start, end = states
    middle = interpolated(start, end, 0.25)
    for kind in ("running_mean", "running_var", "weight"):
        names = [name for name in start if name.endswith(kind) and not torch.equal(start[name], end[name])]
        assert names
        for name in names:
            expected = 0.75 * start[name].double() + 0.25 * end[name].double()
            assert torch.allclose(middle[name].double(), expected, rtol=1e-6, atol=1e-7)
    counts = [name for name in start if name.endswith("num_batches_tracked")]
    assert counts
    for name in counts:
        assert middle[name].dtype == torch.int64 and middle[name] == end[name] == 3
