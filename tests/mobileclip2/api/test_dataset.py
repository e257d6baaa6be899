"""Reinforced shards are a torch dataset."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

import mobileclip2
from mobileclip2.engine.pipeline import Pipeline


@pytest.fixture
def data(materialized: Callable[..., Pipeline], folder: Path) -> mobileclip2.ReinforcedDataset:
    pipeline = materialized("reinforced_dataset")
    return mobileclip2.Pipeline(pipeline).reinforced(mobileclip2.load(folder, device="cpu"), seed=3)


def test_samples_have_the_tensors_of_the_docstring(data):
    assert len(data) == 23 and data.dim == 32
    assert data.teacher_dims == {"wide": 24, "narrow": 8} and data.logit_scales == {"wide": 50, "narrow": 30}
    sample = data[0]
    shapes = {name: list(tensor.shape) for name, tensor in sample.items()}
    assert shapes == {
        "image": [3, 32, 32],
        "text": [12],
        "synthetic_text": [12],
        "teacher_image": [32],
        "teacher_text": [32],
        "teacher_synthetic_text": [32],
    }
    assert sample["image"].dtype == torch.float32


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_batches_samples_and_epochs_use_different_views(data, workers):
    def images(epoch: int) -> torch.Tensor:
        data.set_epoch(epoch)
        loader = DataLoader(
            data, batch_size=8, num_workers=workers, multiprocessing_context="forkserver" if workers else None
        )
        batches = list(loader)
        assert [len(batch["text"]) for batch in batches] == [8, 8, 7]
        return torch.cat([batch["image"] for batch in batches])

    first = images(0)
    assert torch.equal(first, images(0)) and not torch.equal(first, images(1))


def test_missing_or_invalid_shards_are_reported(folder):
    model = mobileclip2.load(folder, device="cpu")
    with pytest.raises(mobileclip2.UserError, match="no shards; give the paths"):
        mobileclip2.ReinforcedDataset([], model)
    with pytest.raises(mobileclip2.UserError, match=r"a\.parquet: not a tar"):
        mobileclip2.ReinforcedDataset(["a.parquet"], model)


def test_iteration_ends(data):
    with pytest.raises(IndexError):
        data[len(data)]
    assert sum(1 for _ in data) == len(data)
