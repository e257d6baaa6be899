"""Train one model in several processes: torchrun's environment, and gathering features with gradients.

Each process computes the loss of its own rows against the gathered columns of all.
``DistributedDataParallel`` averages the gradients over processes, which makes them those of the mean loss:
the joined batch in one process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

PATIENCE = timedelta(hours=2)
"""how long the others wait while the first process evaluates"""


@dataclass(frozen=True)
class World:
    """This process among those that train together."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def gather(self, x: Tensor) -> Tensor:
        """``[b, ...]`` of every process, by rank: ``[size * b, ...]``. Gradients flow back to each."""
        if self.size == 1:
            return x
        gathered: Tensor = _Gather.apply(x)
        return gathered

    def mean(self, x: Tensor) -> Tensor:
        """Mean over processes, without gradient."""
        if self.size == 1:
            return x
        x = x.detach().clone()
        dist.all_reduce(x)
        return x / self.size

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def join(device: str | torch.device) -> Iterator[World]:
    """Join the world that torchrun describes in the environment, or a world of one.

    On GPUs each process takes the one of its local rank. A process group that exists already is used and left
    as it is.
    """
    device = torch.device(device)
    if dist.is_initialized():
        yield World(dist.get_rank(), dist.get_world_size(), device)
    elif int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield World(0, 1, device)
    else:
        gpu = device.type == "cuda"
        if gpu:
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if gpu else "gloo", timeout=PATIENCE, device_id=device if gpu else None)
        try:
            yield World(dist.get_rank(), dist.get_world_size(), device)
        finally:
            dist.destroy_process_group()


class _Gather(torch.autograd.Function):
    """Concatenates over processes; backward, adds up what every process's loss says about our rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]
