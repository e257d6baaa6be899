"""Global batches by step number, so that the place in the data is the step and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from multiprocessing import get_context
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from mobileclip2.config.training import TrainSettings
from mobileclip2.errors import UserError
from mobileclip2.training.distributed import World

if TYPE_CHECKING:
    from mobileclip2.training.data import SampleSource

Place = tuple[int, int]
"""epoch, sample index"""


def batches(source: SampleSource, settings: TrainSettings, world: World, start: int) -> Iterator[dict[str, Tensor]]:
    """Yield this process's share of the global batches from step ``start`` to the last.

    Each share is ``{key: [b, ...]}`` on the CPU, with its images before :meth:`SampleSource.prepare`.

    Step ``s`` sees slice ``s mod (steps an epoch)`` of its epoch's order, and process r of w the r-th of w
    equal parts of it. The partial batch at the end of an epoch is left out.

    Raises:
        UserError: fewer samples than a batch, or a batch that does not divide among the processes.
    """
    # A fork of this process can hang: it copies the locks of threads that it does not copy. The server has no threads.
    start_method = get_context("forkserver") if settings.workers else None
    if start_method:
        start_method.set_forkserver_preload(["mobileclip2.training.data"])
    loader: DataLoader[dict[str, Tensor]] = DataLoader(
        _Samples(source),
        batch_sampler=_Places(source, settings, world, start),
        num_workers=settings.workers,
        multiprocessing_context=start_method,
        pin_memory=world.device.type == "cuda",
        # the loader draws a seed for its workers; the random numbers of training are not touched by that
        generator=torch.Generator(),
    )
    return iter(loader)


class _Samples(Dataset[dict[str, Tensor]]):
    def __init__(self, source: SampleSource) -> None:
        self.source = source

    def __getitem__(self, place: Place) -> dict[str, Tensor]:
        return self.source.sample(*place)


class _Places(Sampler[list[Place]]):
    def __init__(self, source: SampleSource, settings: TrainSettings, world: World, start: int) -> None:
        self.source, self.start, self.stop, self.batch = source, start, settings.total_steps, settings.batch
        if self.batch % (world.size * settings.accumulate):
            raise UserError(
                f"batch: {self.batch} does not divide among {world.size} processes of "
                f"{settings.accumulate} micro-batches each"
            )
        share = self.batch // world.size
        self.mine = slice(world.rank * share, (world.rank + 1) * share)
        self.steps_an_epoch = len(source) // self.batch
        if not self.steps_an_epoch:
            raise UserError(f"batch: {self.batch} exceeds the {len(source)} samples there are; make it smaller")

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[Place]]:
        step = self.start
        while step < self.stop:
            epoch, number = divmod(step, self.steps_an_epoch)
            last = min(self.steps_an_epoch, number + self.stop - step)
            for batch in islice(_slices(self.source.order(epoch), self.batch), number, last):
                yield [(epoch, index) for index in batch[self.mine].tolist()]
                step += 1


def _slices(parts: Iterator[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Join the parts and yield slices of ``size``. A rest at the end is left out."""
    rest = np.empty(0, np.int64)
    for part in parts:
        rest = np.concatenate([rest, part])
        whole = len(rest) // size * size
        yield from rest[:whole].reshape(-1, size)
        rest = rest[whole:]
