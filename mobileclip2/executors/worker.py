"""Run a task spec in a process of its own, on this machine or in a pod.

    python -m mobileclip2.executors.worker s3://bucket/store .orders/name.json --of 40   # chunk JOB_COMPLETION_INDEX of 40
    python -m mobileclip2.executors.worker s3://bucket/store .orders/name.json           # the whole batch, or one rank of it

The process reports its progress and its error as :mod:`~mobileclip2.executors.messages`.
"""

from __future__ import annotations

import argparse
import os
import sys

from mobileclip2.engine.task import run_shard_task, run_task
from mobileclip2.errors import ComputeError, DamagedOutput, StoreError, UserError
from mobileclip2.executors.messages import PERMANENT, Failure, StepReport, send
from mobileclip2.progress import Step
from mobileclip2.store import open_storage


def main(arguments: list[str] | None = None) -> int:
    """Run a spec. Return 0, 1 for a temporary error such as an unreachable store, or :data:`PERMANENT`."""
    parser = argparse.ArgumentParser(prog="python -m mobileclip2.executors.worker", description="run a task spec")
    parser.add_argument("store", help="store: folder or s3:// URL")
    parser.add_argument("key", help="key of the task spec in the store")
    parser.add_argument("--of", type=int, help="number of chunks; without it, run the whole batch")
    options = parser.parse_args(arguments)
    storage = open_storage(options.store)
    try:
        if options.of is None:
            run_task(storage, options.key, _send_step)
        else:
            run_shard_task(storage, options.key, int(os.environ["JOB_COMPLETION_INDEX"]), options.of, _send_step)
    except UserError as error:
        permanent = isinstance(error, DamagedOutput) or not isinstance(error, StoreError | ComputeError)
        send(Failure(message=str(error), permanent=permanent))
        return PERMANENT if permanent else 1
    return 0


def _send_step(step: Step) -> None:
    if int(os.environ.get("RANK", "0")) == 0:
        send(StepReport(step=step))


if __name__ == "__main__":
    sys.exit(main())
