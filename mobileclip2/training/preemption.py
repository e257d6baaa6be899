"""Stop a training at SIGTERM with a checkpoint, in all processes after the same step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class StopRequest:
    """Whether this process got SIGTERM, and whether any process of the training did."""

    def __init__(self) -> None:
        self.received = False
        self._agreed: tuple[Tensor, torch.cuda.Event | None] | None = None

    def receive(self, *_: object) -> None:
        """Note a signal."""
        self.received = True

    def agree(self, mean: Tensor) -> bool:
        """Return whether a process had received a signal one step earlier.

        ``mean`` is that of ``received`` over all processes, on the device. Reading it one step later does not stop the device.
        """
        earlier = self._agreed
        if mean.is_cuda:
            copied = torch.cuda.Event()
            self._agreed = mean.to("cpu", non_blocking=True), copied
            copied.record()
        else:
            self._agreed = mean, None
        if earlier is None:
            return False
        value, event = earlier
        if event:
            event.synchronize()
        return bool(value > 0)


@contextmanager
def stop_on_sigterm() -> Iterator[StopRequest]:
    """Collect SIGTERM during the block, unless the program handles that signal itself or this is not its main thread."""
    request = StopRequest()
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield request
        return
    signal.signal(signal.SIGTERM, request.receive)
    try:
        yield request
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
