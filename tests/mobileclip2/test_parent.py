from __future__ import annotations

import multiprocessing
import signal
import time
from multiprocessing.connection import Connection

import pytest

from mobileclip2.parent import end_with_parent

FORKSERVER = multiprocessing.get_context("forkserver")


def wait_for_work(begun: Connection) -> None:
    end_with_parent()
    begun.send("begun")
    time.sleep(600)


def start_worker(begun: Connection) -> None:
    FORKSERVER.Process(target=wait_for_work, args=(begun,)).start()
    time.sleep(600)


def test_a_worker_ends_with_its_killed_parent() -> None:
    told, begun = FORKSERVER.Pipe(duplex=False)
    parent = FORKSERVER.Process(target=start_worker, args=(begun,))
    parent.start()
    begun.close()
    assert told.recv() == "begun"
    parent.kill()
    parent.join()
    assert parent.exitcode == -signal.SIGKILL
    assert told.poll(30)
    with pytest.raises(EOFError):  # the worker, which was the last process with this pipe, is gone
        told.recv()
