"""Global batches by step number. The step alone determines the position in the data."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from multiprocessing import get_context
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mobileclip2.config.training import TrainSettings
from mobileclip2.errors import UserError
from mobileclip2.parent import end_with_parent
from mobileclip2.training.distributed import World

if TYPE_CHECKING:
    from mobileclip2.training.data import SampleSource

SampleIndex = tuple[int, int]
"""Epoch and sample index."""


def batches(source: SampleSource, settings: TrainSettings, world: World, start: int) -> Iterator[dict[str, Tensor]]:
    """Yield this process's part of the global batches, from step ``start`` to the last step.

    A batch is ``{key: [b, ...]}`` on the CPU, with images as :meth:`SampleSource.prepare` takes them.

    Step ``s`` takes batch ``s mod (steps per epoch)`` of its epoch. Process r of w takes the r-th of w equal slices.
    The partial batch at the end of an epoch is dropped.

    Raises:
        UserError: there are fewer samples than a batch, or the batch is not divisible by the number of processes.
    """
    if settings.batch % (world.size * settings.accumulate):
        raise UserError(
            f"batch: {settings.batch} is not divisible by {world.size} processes x {settings.accumulate} micro-batches; "
            f"make it a multiple of {world.size * settings.accumulate}"
        )
    if len(source) < settings.batch:
        raise UserError(f"batch: {settings.batch} exceeds the {len(source)} samples of the data; make it smaller")
    # A fork of this process can deadlock, because it copies locks but not the threads that hold them.
    start_method = get_context("forkserver") if settings.workers else None
    if start_method:
        start_method.set_forkserver_preload(["mobileclip2.training.data"])
    loader: DataLoader[dict[str, Tensor]] = DataLoader(
        _SampleDataset(source),
        batch_sampler=_indices(source, settings, world, start),
        num_workers=settings.workers,
        multiprocessing_context=start_method,
        worker_init_fn=_begin_worker,
        pin_memory=world.device.type == "cuda",
        # The loader draws a seed for its workers, which must not advance the global generator.
        generator=torch.Generator(),
    )
    return iter(loader)


def _begin_worker(_: int) -> None:
    end_with_parent()  # torch's own watchdog watches the server that forks the workers, and these keep the server


class _SampleDataset(Dataset[dict[str, Tensor]]):
    def __init__(self, source: SampleSource) -> None:
        self.source = source

    def __getitem__(self, index: SampleIndex) -> dict[str, Tensor]:
        return self.source.sample(*index)


def _indices(source: SampleSource, settings: TrainSettings, world: World, step: int) -> Iterator[list[SampleIndex]]:
    """Yield the samples of this process for each step, from ``step`` on."""
    local_batch = settings.batch // world.size
    local_slice = slice(world.rank * local_batch, (world.rank + 1) * local_batch)
    steps_per_epoch = len(source) // settings.batch
    while step < settings.total_steps:
        epoch, first = divmod(step, steps_per_epoch)
        last = min(steps_per_epoch, first + settings.total_steps - step)
        for batch in islice(_rebatch(source.order(epoch), settings.batch), first, last):
            yield [(epoch, index) for index in batch[local_slice].tolist()]
            step += 1


def _rebatch(chunks: Iterator[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Join the chunks and yield batches of ``size``. Drop the partial batch at the end."""
    remainder = np.empty(0, np.int64)
    for chunk in chunks:
        joined = np.concatenate([remainder, chunk])
        end = len(joined) // size * size
        yield from joined[:end].reshape(-1, size)
        remainder = joined[end:]
