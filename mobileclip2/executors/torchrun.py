"""Run the ranks of a training with torchrun, and report how a rank died. The arguments are those of torchrun."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

from mobileclip2.executors.messages import Failure, send
from mobileclip2.executors.signals import death

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError


def main(arguments: list[str]) -> int:
    """Run torchrun. Return 0, or 1 if a rank failed."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    options = parse_args(arguments)
    if options.nproc_per_node != "1":
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # torchrun's default, which it announces on every start
    try:
        run(options)
    except ChildFailedError as error:
        if number := deadly_signal(error):
            send(Failure(message=f"a training process died by {death(number)}", permanent=False))
        return 1
    return 0


def deadly_signal(error: ChildFailedError) -> int | None:
    """Return the signal that killed a rank, or None. torchrun ends the ranks that remain with SIGTERM."""
    codes = {failure.exitcode for failure in error.failures.values()}
    causes = codes - {-signal.SIGTERM} or codes
    return next((-code for code in causes if code < 0), None)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
