"""This machine: the process itself, a pool over the chunks of a group, or torchrun for training."""

from __future__ import annotations

import multiprocessing
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import takewhile
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Event

from mobileclip2.engine.pipeline import InProcessExecutor, TaskBatch
from mobileclip2.engine.shard_stage import ShardStage
from mobileclip2.engine.stage import load_stage
from mobileclip2.engine.task import REFUSES, TaskSpec, run_shard_task
from mobileclip2.errors import ComputeError, UserError
from mobileclip2.executors.chunks import count_chunks, seconds_a_shard
from mobileclip2.executors.shard_progress import ShardProgress
from mobileclip2.executors.signals import death
from mobileclip2.progress import Step
from mobileclip2.store import open_storage

LOOK_SECONDS = 2.0
JOIN_SECONDS = 10.0
"""for a worker of a broken pool, which is being ended"""


class LocalExecutor:
    """Shares shards, and training, out over some processes of this machine; with one, everything happens in this one."""

    def __init__(self, processes: int = 1) -> None:
        self.processes = processes

    def run(self, work: TaskBatch) -> float:
        """Do the work in some processes, and return the seconds of one device that it took."""
        stage = load_stage(work.asset.stage)
        shared = isinstance(stage, ShardStage) or work.asset.trains
        if self.processes == 1 or not shared:
            return InProcessExecutor().run(work)
        order = TaskSpec.of(work)
        storage = work.pipeline.storage
        order.write(storage)
        try:
            return self._pool(work, stage, order) if isinstance(stage, ShardStage) else self._torchrun(work, order)
        finally:
            storage.delete(order.key)

    def _pool(self, work: TaskBatch, stage: ShardStage, order: TaskSpec) -> float:
        stage.mend(work)
        watch = ShardProgress(work, stage)
        of = max(self.processes, count_chunks(watch.total, seconds_a_shard(work), self.processes))
        context = get_context("spawn")  # a fork of a process with threads, torch's among them, may never wake up
        ranks, stop = context.SimpleQueue(), context.Event()
        for rank in range(self.processes):
            ranks.put(rank)
        with ProcessPoolExecutor(self.processes, context, _settle, (ranks, self.processes, stop)) as pool:
            futures: list[Future[float]] = [
                pool.submit(_chunk, order.store, order.key, index, of) for index in range(of)
            ]
            workers = multiprocessing.active_children()
            try:
                waiting = set(futures)
                while waiting:
                    done, waiting = wait(waiting, LOOK_SECONDS, FIRST_COMPLETED)
                    for future in done:
                        future.result()
                    watch.look(processes=min(len(waiting), self.processes))
            except BrokenProcessPool as error:
                raise ComputeError(f"{work.asset.key}: a worker process died by {_death_of(workers)}") from error
            except Exception:
                raise
            except BaseException:  # somebody stops the run; a worker would finish its shard first
                for worker in workers:
                    worker.kill()
                raise
            finally:
                stop.set()
                pool.shutdown(cancel_futures=True)
        watch.expect_all("its chunks")
        stage.close(work)
        return sum(future.result() for future in futures)

    def _torchrun(self, work: TaskBatch, order: TaskSpec) -> float:
        started = time.monotonic()
        torchrun = ["torch.distributed.run", "--standalone", f"--nproc-per-node={self.processes}"]
        command = [sys.executable, "-m", *torchrun, "-m", "mobileclip2.engine.task", order.store, order.key]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            assert process.stdout
            try:
                output = [line for line in process.stdout if not told(line, work)]
            except BaseException:
                process.terminate()
                raise
        if process.returncode:
            raise UserError(
                refusal(output) or killed(output, work) or f"{work.asset.key}: torchrun failed\n{''.join(output[-30:])}"
            )
        return (time.monotonic() - started) * self.processes


def killed(output: list[str], work: TaskBatch) -> str | None:
    """Name the signal that killed a rank. torchrun's report lists it as ``exitcode : -11``."""
    found = re.search(r"Root Cause.*?exitcode\s*: -(\d+)", "".join(output), re.DOTALL)
    return f"{work.asset.key}: a training process died by {death(int(found[1]))}" if found else None


def _death_of(workers: list[BaseProcess]) -> str:
    """How the first worker of a broken pool died. The pool ends the others with SIGTERM."""
    for worker in workers:
        worker.join(JOIN_SECONDS)
    codes = [-worker.exitcode for worker in workers if worker.exitcode and worker.exitcode < 0]
    return death(next((code for code in codes if code != signal.SIGTERM), signal.SIGTERM))


def told(line: str, work: TaskBatch) -> bool:
    """Report the step in a worker's line. Return False for any other line."""
    step = Step.from_line(line)
    if step:
        work.progress(step)
    return step is not None


def refusal(output: list[str]) -> str | None:
    """Return what a worker said that the user can correct. Further lines of such a message are indented."""
    for number, line in enumerate(output):
        if line.startswith(REFUSES):
            more = takewhile(lambda each: each.startswith("  "), output[number + 1 :])
            return "".join([line.removeprefix(REFUSES), *more]).strip()
    return None


_stop: Event


def _settle(ranks: SimpleQueue[int], processes: int, stop: Event) -> None:
    import torch

    global _stop
    _stop = stop
    rank = ranks.get()
    torch.set_num_threads(max(1, torch.get_num_threads() // processes))
    if torch.cuda.is_available():
        torch.cuda.set_device(rank % torch.cuda.device_count())


def _chunk(store: str, key: str, index: int, of: int) -> float:
    started = time.monotonic()
    run_shard_task(open_storage(store), key, index, of, _go_on)
    return time.monotonic() - started


def _go_on(step: Step) -> None:
    """End a chunk after the present shard if the run has ended."""
    if _stop.is_set():
        raise InterruptedError("the run has ended")
