"""Load once the data that each run and pod needs. Runs and pods are forked from the process that imports this module.

Loading CLIP's vocabulary takes half the time of the tiny graph. Loading boto3's description of S3 takes a good part
of a second in each process.
"""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Sequence
from multiprocessing import forkserver, resource_tracker, util
from pathlib import Path
from typing import Any
from unittest import mock

import boto3
from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, SimpleTokenizer

SPAWN = util.spawnv_passfds
WHOLE = dict(SimpleTokenizer().__dict__)


def _cached_tokenizer(self: SimpleTokenizer, context_length: int = DEFAULT_CONTEXT_LENGTH, **other: Any) -> None:
    assert not other, f"not loaded once: {other}"
    self.__dict__.update(WHOLE, cache=dict(WHOLE["cache"]), context_length=context_length)


SimpleTokenizer.__init__ = _cached_tokenizer
boto3.client("s3", region_name="us-east-1", aws_access_key_id="nobody", aws_secret_access_key="nothing")


def start_fork_server() -> None:
    """Fork the server of a pool from this process, which has imported everything and must not have threads yet.

    Python starts that server as a program, and importing torch again takes longer than a whole run.
    """
    assert threading.active_count() == 1
    resource_tracker.ensure_running()
    with mock.patch.object(util, "spawnv_passfds", _fork):
        forkserver.ensure_running()


def _fork(_program: str, arguments: list[str], passed: Sequence[int]) -> int:
    if pid := os.fork():
        return pid
    status = 1
    try:
        util.spawnv_passfds = SPAWN  # the parent does the same as soon as this call returns
        descriptors = Path("/proc/self/fd")
        pipes = [(descriptors / str(each)).readlink() for each in passed]
        for link in list(descriptors.iterdir()):
            # Close the parent's end of a pipe. The server detects the end of the parent when all copies are closed.
            if int(link.name) not in passed and link.is_symlink() and link.readlink() in pipes:
                os.close(int(link.name))
        forkserver._forkserver.__init__()  # type: ignore[misc]  # its lock is held
        exec(arguments[-1], {})  # multiprocessing gives the server as source text
    except SystemExit:
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)
