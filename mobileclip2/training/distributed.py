"""Data-parallel training: join torchrun's process group and gather features with gradients.

Each process computes the loss of its own rows against the gathered columns of all processes.
``DistributedDataParallel`` averages the gradients, so they equal those of the global batch in one process.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # not in its __all__

TIMEOUT = timedelta(hours=2)
"""Default of the longest time that processes wait for each other, while the main process evaluates for example."""


@dataclass(frozen=True)
class World:
    """Rank, world size and device of this process."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process has rank 0. Only this process writes files."""
        return self.rank == 0

    def gather(self, x: Tensor) -> Tensor:
        """Concatenate ``[b, ...]`` of all processes, by rank, to ``[size * b, ...]``. Gradients flow to all processes."""
        if self.size == 1:
            return x
        gathered: Tensor = _Gather.apply(x)
        return gathered

    def mean(self, x: Tensor) -> Tensor:
        """Average over processes, without gradient."""
        if self.size == 1:
            return x
        x = x.detach().clone()
        dist.all_reduce(x)
        return x / self.size

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def join(device: str | torch.device, timeout: timedelta = TIMEOUT) -> Iterator[World]:
    """Join the process group of torchrun's environment, or return a world of one process.

    Each process uses the GPU of its local rank. An existing process group is reused and not destroyed.
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
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        dist.init_process_group(
            "nccl" if gpu else "gloo",
            store=_loopback_store(rank, size, timeout),
            rank=rank,
            world_size=size,
            timeout=timeout,
            device_id=device if gpu else None,
        )
        try:
            yield World(dist.get_rank(), dist.get_world_size(), device)
        finally:
            dist.destroy_process_group()


def _loopback_store(rank: int, size: int, timeout: timedelta) -> TCPStore | None:
    """Return a store that only this machine can reach, or None if the ranks meet elsewhere.

    A ``TCPStore`` of torch listens on every interface, and it has no authentication.
    """
    host = os.environ["MASTER_ADDR"]
    if host != "127.0.0.1" or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        return None
    port = int(os.environ["MASTER_PORT"])
    if rank:
        return TCPStore(host, port, size, timeout=timeout)
    listener = socket.create_server((host, port))
    return TCPStore(host, port, size, is_master=True, timeout=timeout, master_listen_fd=listener.detach())


class _Gather(torch.autograd.Function):
    """Concatenate over processes. The backward pass sums the gradients of all processes for the local rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        gathered = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, x.contiguous())
        return torch.cat(gathered)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]
