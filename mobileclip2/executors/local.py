"""Run task batches on this machine: in this process, in a process pool over chunks, or with torchrun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import deque
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.process import BaseProcess, parent_process
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Event
from typing import Any

from mobileclip2.engine.pipeline import InProcessExecutor, TaskBatch
from mobileclip2.engine.shard_stage import ShardStage
from mobileclip2.engine.stage import load_stage, stage_modules
from mobileclip2.engine.task import TaskSpec, run_shard_task
from mobileclip2.errors import ComputeError, UserError
from mobileclip2.executors.chunks import count_chunks, seconds_a_shard
from mobileclip2.executors.commands import ON_THIS_MACHINE, torchrun_command, worker_command
from mobileclip2.executors.messages import Message, StepReport, first_failure, parse_message
from mobileclip2.executors.shard_progress import ShardProgress
from mobileclip2.parent import end_with_parent
from mobileclip2.progress import Step
from mobileclip2.signals import death
from mobileclip2.store import open_storage

POLL_SECONDS = 2.0

PRINTED_LINES = 30
"""last lines of a training's output in the message of an error without a known cause"""


class LocalExecutor:
    """Distributes shards and trainings over processes of this machine. With one process, runs everything in this process."""

    def __init__(self, processes: int = 1) -> None:
        self.processes = processes

    def run(self, batch: TaskBatch) -> float:
        """Compute a batch, commit its manifests and return the device-seconds."""
        stage = load_stage(batch.asset.stage)
        distributed = isinstance(stage, ShardStage) or batch.asset.trains
        if self.processes == 1 or not distributed:
            return InProcessExecutor().run(batch)
        spec = TaskSpec.of(batch)
        storage = batch.pipeline.storage
        spec.write(storage)
        try:
            return (
                self._run_pool(batch, stage, spec) if isinstance(stage, ShardStage) else self._run_torchrun(batch, spec)
            )
        finally:
            storage.delete(spec.key)

    def _run_pool(self, batch: TaskBatch, stage: ShardStage, spec: TaskSpec) -> float:
        stage.discard_truncated(batch)
        progress = ShardProgress(batch, stage)
        of = max(self.processes, count_chunks(progress.total, seconds_a_shard(batch), self.processes))
        context = _ForkServer()
        # the process of a job or of a Dagster run computes one asset, and has a server of its own
        assets = [batch.asset] if parent_process() else batch.pipeline.graph.values()
        context.set_forkserver_preload(stage_modules(assets))
        ranks, stop = context.SimpleQueue(), context.Event()
        for rank in range(self.processes):
            ranks.put(rank)
        for_worker = (ranks, self.processes, stop, dict(os.environ))
        with ProcessPoolExecutor(self.processes, context, _init_worker, for_worker) as pool:
            try:
                futures = [pool.submit(_run_chunk, spec.store, spec.key, index, of) for index in range(of)]
                waiting = set(futures)
                while waiting:
                    done, waiting = wait(waiting, POLL_SECONDS, FIRST_COMPLETED)
                    for future in done:
                        future.result()
                    progress.report(processes=min(len(waiting), self.processes))
            except BrokenProcessPool as error:
                pool.shutdown()  # its thread joins the workers, and two joins at once spoil an exit code
                raise ComputeError(
                    f"{batch.asset.key}: a worker process died by {_death_of(context.workers)}"
                ) from error
            except Exception:
                raise
            except BaseException:  # on an interrupt, do not wait for the current shards
                for worker in context.workers:
                    worker.kill()
                raise
            finally:
                stop.set()
                pool.shutdown(cancel_futures=True)
        progress.expect_all("its chunks")
        stage.commit(batch)
        return sum(future.result() for future in futures)

    def _run_torchrun(self, batch: TaskBatch, spec: TaskSpec) -> float:
        started = time.monotonic()
        worker = worker_command(sys.executable, spec.store, spec.key)
        command = torchrun_command(worker, self.processes, ON_THIS_MACHINE)
        messages: list[Message] = []
        printed: deque[str] = deque(maxlen=PRINTED_LINES)
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as process:
            assert process.stdout
            try:
                for line in process.stdout:
                    message, text = parse_message(line.rstrip("\n"))
                    if text:
                        printed.append(text)
                        print(text, file=sys.stderr, flush=True)
                    if isinstance(message, StepReport):
                        batch.progress(message.step)
                    elif message:
                        messages.append(message)
            except BaseException:
                process.terminate()
                raise
        if process.returncode:
            failure = first_failure(messages)
            if failure and failure.permanent:
                raise UserError(failure.message)
            cause = failure.message if failure else "\n".join(["torchrun failed", *printed])
            raise ComputeError(f"{batch.asset.key}: {cause}")
        return (time.monotonic() - started) * self.processes


class _ForkServer(ForkServerContext):
    """Starts the workers of a pool and keeps them, because one that has died is no longer an active child.

    They are forked from a server that imports the stages, and with them torch, once for all pools of this process. It runs no
    threads: forking a process with threads, such as torch's, can deadlock.
    """

    def __init__(self) -> None:
        super().__init__()
        self.workers: list[BaseProcess] = []

    def Process(self, *args: Any, **options: Any) -> ForkServerProcess:  # type: ignore[override]  # of multiprocessing
        worker = ForkServerProcess(*args, **options)
        self.workers.append(worker)
        return worker


def _death_of(workers: list[BaseProcess]) -> str:
    """Describe the death of the first worker of a broken pool. The pool ends the others with SIGTERM."""
    codes = [-worker.exitcode for worker in workers if worker.exitcode and worker.exitcode < 0]
    return death(next((code for code in codes if code != signal.SIGTERM), signal.SIGTERM))


_stop: Event


def _init_worker(ranks: SimpleQueue[int], processes: int, stop: Event, environment: dict[str, str]) -> None:
    global _stop
    os.environ.clear()  # of the time when the server started
    os.environ.update(environment)
    _stop = stop
    end_with_parent()
    share_devices(ranks.get(), processes)


def share_devices(rank: int, processes: int) -> None:
    """Give this forked process its share of the cores, and a GPU. Its server has imported torch if a stage needs it."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(max(1, torch.get_num_threads() // processes))
        if torch.cuda.is_available():
            torch.cuda.set_device(rank % torch.cuda.device_count())


def _run_chunk(store: str, key: str, index: int, of: int) -> float:
    started = time.monotonic()
    run_shard_task(open_storage(store), key, index, of, _check_stop)
    return time.monotonic() - started


def _check_stop(step: Step) -> None:
    """Stop the chunk after the current shard if the run has ended."""
    if _stop.is_set():
        raise InterruptedError("the run has ended")
