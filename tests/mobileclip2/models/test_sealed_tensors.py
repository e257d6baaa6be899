from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mobileclip2.errors import StoreError
from mobileclip2.models import sealed_tensors
from mobileclip2.models.sealed_tensors import DamagedTensors, read_metadata, read_sealed, write_sealed

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(7), "half": torch.ones(3, dtype=torch.bfloat16)}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_sealed(tmp_path / "x.safetensors", TENSORS, {"keys": '["sha256", "\\"sha256\\":\\"0"]'})
    return tmp_path / "x.safetensors"


def test_tensors_and_metadata_are_read_back(file: Path) -> None:
    tensors, metadata = read_sealed(file)
    torch.testing.assert_close(tensors, TENSORS, rtol=0, atol=0)
    assert metadata["keys"] == '["sha256", "\\"sha256\\":\\"0"]' and read_metadata(file) == metadata
    torch.testing.assert_close(load_file(file), TENSORS, rtol=0, atol=0)


def test_tensors_that_share_memory_or_are_transposed_are_written(tmp_path: Path) -> None:
    base = torch.arange(6.0).view(2, 3)
    tensors = {"a": base, "same": base, "row": base[1], "turned": base.T}
    write_sealed(tmp_path / "x", tensors, {})
    torch.testing.assert_close(read_sealed(tmp_path / "x")[0], tensors, rtol=0, atol=0)


def test_every_flipped_bit_is_found(file: Path) -> None:
    whole = file.read_bytes()
    for position in range(len(whole)):
        file.write_bytes(whole[:position] + bytes([whole[position] ^ 1 << position % 8]) + whole[position + 1 :])
        with pytest.raises(DamagedTensors, match=r"x\.safetensors: damaged"):
            read_sealed(file)


def test_every_truncation_and_addition_is_found(file: Path) -> None:
    whole = file.read_bytes()
    for changed in [*(whole[:size] for size in range(len(whole))), whole + b"\0", whole * 2]:
        file.write_bytes(changed)
        with pytest.raises(DamagedTensors, match=r"x\.safetensors: damaged"):
            read_sealed(file)


def test_unsealed_unreadable_and_missing_files_count_as_damaged(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "unsealed")
    (tmp_path / "noise").write_bytes(random.Random(0).randbytes(1000))
    (tmp_path / "folder").mkdir()
    for name in ("unsealed", "noise", "folder", "absent"):
        with pytest.raises(DamagedTensors, match=name):
            read_sealed(tmp_path / name)


def test_a_failed_write_is_reported_and_keeps_the_old_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = file.read_bytes()

    def full(*_: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(sealed_tensors, "save_file", full)
    with pytest.raises(StoreError, match=r"x\.safetensors: cannot be written .*No space left"):
        write_sealed(file, {}, {})
    assert file.read_bytes() == before and list(file.parent.iterdir()) == [file]
