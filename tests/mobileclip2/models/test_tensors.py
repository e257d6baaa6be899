from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mobileclip2.errors import StoreError
from mobileclip2.models.tensors import mismatch, write_tensors


def test_tensors_that_share_memory_are_written_as_they_are(tmp_path: Path) -> None:
    weight = torch.arange(6.0).view(2, 3)
    write_tensors(tmp_path / "a.safetensors", {"weight": weight, "tied": weight, "view": weight.T})
    found = load_file(tmp_path / "a.safetensors")
    assert torch.equal(found["tied"], weight) and torch.equal(found["view"], weight.T)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
