"""Compute several assets and groups at once, each in a process of its own."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import Self

import dagster as dg

from mobileclip2.asset_key import Partition
from mobileclip2.config.profile import Profile
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.engine.stage import stage_modules
from mobileclip2.errors import UserError
from mobileclip2.executors.local import share_devices
from mobileclip2.progress import Step
from mobileclip2.signals import death
from pipelines.asset_definitions import stages
from pipelines.asset_run import materialize
from pipelines.instance import instance
from pipelines.processes import crash_report, end_runs_of, process_id, this_process
from pipelines.supervise import KEPT, RunDisplay

END_SECONDS = 8.0
"""time for an interrupted job to end; less than the time after which the supervisor kills the command"""

PRELOADED = (
    __name__,
    "mobileclip2.report.sheets",
    "dagster._core.storage.sqlite_storage",
    "matplotlib.figure",
    "pandas",
)
"""modules that most jobs would import, beside the stages: pyarrow looks for pandas. One that is missing is skipped"""


@dataclass(frozen=True)
class Job:
    """A process that computes an asset for a group."""

    partition: Partition
    slot: int
    process: ForkServerProcess
    id: str | None
    """see :func:`~pipelines.processes.process_id`"""


class Jobs:
    """Processes that compute assets and groups, at most ``count`` at once. The length is their number.

    They record their runs in the instance of this checkout. A process that is left at the end of the block is interrupted.
    """

    def __init__(self, pipeline: Pipeline, dagster: dg.DagsterInstance, observer: RunDisplay, count: int) -> None:
        self._profile, self._dagster, self._observer, self._count = pipeline.profile, dagster, observer, count
        # a spawned process would import torch for each job, and a forked one would inherit connections and threads
        self._context = get_context("forkserver")
        self._context.set_forkserver_preload([*PRELOADED, *stage_modules(pipeline.graph.values())])
        self._jobs: dict[Connection, Job] = {}
        # a job tells its failure before it ends, and another may end in between
        self._failures: dict[Connection, str] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def start(self, partition: Partition) -> None:
        """Start a process for an asset and group."""
        slot = min(set(range(self._count)) - {job.slot for job in self._jobs.values()})
        receiver, sender = self._context.Pipe(duplex=False)
        process = self._context.Process(
            target=_compute, args=(self._profile, partition, slot, self._count, this_process(), sender)
        )
        process.start()
        sender.close()
        assert process.pid
        self._jobs[receiver] = Job(partition, slot, process, process_id(process.pid))

    def wait(self) -> tuple[Partition, UserError | None]:
        """Pass on the progress of all jobs until one ends. Return its asset and group, and its error."""
        while True:
            for receiver in connection.wait(list(self._jobs)):
                assert isinstance(receiver, Connection)
                job = self._jobs[receiver]
                try:
                    kind, *arguments = json.loads(receiver.recv_bytes())
                except EOFError:
                    del self._jobs[receiver]
                    return job.partition, self._end(job, self._failures.pop(receiver, None))
                if kind == "step":
                    self._observer.step(str(job.partition), Step(*arguments))
                else:
                    (self._failures[receiver],) = arguments

    def _end(self, job: Job, failure: str | None) -> UserError | None:
        job.process.join()
        code = job.process.exitcode or 0
        if code < 0:
            cause = (job.id and crash_report(job.id, -code)) or death(-code)
            if job.id:
                end_runs_of(self._dagster, job.id, cause, canceled=False)
            return UserError(f"{job.partition}: ended by {cause}")
        if code and failure is None:
            failure = f"{job.partition}: the process ended with status {code}; see its output"
        return UserError(failure) if failure else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Interrupt the jobs, and kill those that do not end."""
        for job in self._jobs.values():
            if job.process.pid:
                with suppress(ProcessLookupError):
                    os.kill(job.process.pid, signal.SIGINT)
        sentinels = [job.process.sentinel for job in self._jobs.values()]
        while sentinels and (ended := connection.wait(sentinels, END_SECONDS)):
            sentinels = [each for each in sentinels if each not in ended]
        for job in self._jobs.values():
            job.process.kill()
            job.process.join()
        if self._jobs:
            end_runs_of(self._dagster, this_process(), f"Stopped; {KEPT}.", canceled=True)


def _compute(profile: Profile, partition: Partition, slot: int, count: int, command: str, sender: Connection) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    logging.getLogger("dagster").setLevel(logging.ERROR)
    share_devices(slot, count)

    def send(*message: object) -> None:
        sender.send_bytes(json.dumps(message).encode())

    def on_step(step: Step) -> None:
        send("step", step.done, step.total, step.unit, step.numbers)

    repository = stages(profile, on_step).get_repository_def()
    try:
        with instance() as dagster:
            materialize(profile, repository, dagster, partition, command)
    except UserError as error:
        send("failed", str(error))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
