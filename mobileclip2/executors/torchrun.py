"""Run the ranks of a training with torchrun, and report how a rank died. The arguments are those of torchrun."""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
from typing import TYPE_CHECKING

from mobileclip2.executors.commands import LOOPBACK
from mobileclip2.executors.messages import Failure, send
from mobileclip2.signals import death

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError


def main(arguments: list[str]) -> int:
    """Run torchrun. Return 0, 1 if a rank failed, or 128 + the number of the signal that ended it."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    options = parse_args(arguments)
    if options.nproc_per_node != "1":
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # torchrun's default, which it announces on every start
    with tempfile.TemporaryDirectory() as folder:
        if options.local_addr == LOOPBACK:
            options.rdzv_endpoint = f"{folder}/rendezvous"
            os.environ.update(dict.fromkeys(("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"), _loopback_interface()))
            os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # the ranks make a store of their own
        try:
            run(options)
        except SignalException as signaled:  # the ranks have saved a checkpoint
            return 128 + signaled.sigval
        except ChildFailedError as error:
            if number := deadly_signal(error):
                send(Failure(message=f"a training process died by {death(number)}", permanent=False))
            return 1
    return 0


def _loopback_interface() -> str:
    names = [name for _, name in socket.if_nameindex()]
    return next((name for name in names if name in {"lo", "lo0"}), names[0])


def deadly_signal(error: ChildFailedError) -> int | None:
    """Return the signal that killed a rank, or None. torchrun ends the ranks that remain with SIGTERM."""
    codes = {failure.exitcode for failure in error.failures.values()}
    causes = codes - {-signal.SIGTERM} or codes
    return next((-code for code in causes if code < 0), None)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
