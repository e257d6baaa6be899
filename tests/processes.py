"""Processes for tests, forked from a server that has imported what they need and runs no threads.

A fork of the test process itself can hang: it copies the locks of threads that it does not copy.
"""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(
    ["open_clip", "tests.tiny", "mobileclip2.engine.pipeline", "mobileclip2.training.trainer"]
)


def start_process(function: Callable[..., None], *arguments: Any, **environment: str) -> BaseProcess:
    """Start ``function``, which a module defines at its top level, in a process with one thread, or ``OMP_NUM_THREADS``."""
    values = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    process = FORKSERVER.Process(target=_run, args=(function, arguments, values))
    process.start()
    return process


def run_process(function: Callable[..., None], *arguments: Any, **environment: str) -> int:
    """Run ``function`` in a process and return its exit code: negative for a signal."""
    process = start_process(function, *arguments, **environment)
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def descendants(process: int) -> list[int]:
    """Return the numbers of a process and of those that it and they have started."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [process, *(each for child in children for each in descendants(int(child)))]


def _run(function: Callable[..., None], arguments: tuple[Any, ...], environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    try:
        function(*arguments)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
