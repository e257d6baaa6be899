"""Run a module as the process of a pod, and keep its output in the store.

    python -m mobileclip2.executors.pod s3://bucket/store .logs/name mobileclip2.executors.worker ...

Kubernetes deletes the log of a pod with the pod, and a pod that is evicted or whose node is lost does not wait for a reader. This
process therefore copies the output of its child to the log of the container and, every half minute, to the store. It is the first
process of the container: it forwards SIGTERM, which the kernel would otherwise ignore there, and explains a deadly signal.
"""

from __future__ import annotations

import argparse
import os
import runpy
import selectors
import signal
import sys
import threading
import time
import warnings

from mobileclip2.errors import StoreError
from mobileclip2.executors.messages import PERMANENT, Failure, first_failure, format_message, parse_output
from mobileclip2.signals import death
from mobileclip2.store import open_storage

PUSH_SECONDS = 30.0
LAST_PUSH_SECONDS = 20.0
"""time for the last upload; the store itself tries for minutes"""
MAX_BYTES = 4 << 20
"""end of the output that is kept"""
TICK_SECONDS = 0.2


def main(arguments: list[str] | None = None) -> int:
    """Run the module and return its exit status: 128 + the number of its signal, or :data:`PERMANENT`."""
    parser = argparse.ArgumentParser(prog="python -m mobileclip2.executors.pod", description="run the process of a pod")
    parser.add_argument("--linger", type=float, default=0.0, help="seconds to wait after a failure")
    parser.add_argument("store", help="store: folder or s3:// URL")
    parser.add_argument("folder", help="folder of the log in the store; the name of the log is POD_NAME")
    parser.add_argument("module", help="module to run")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="arguments of the module")
    options = parser.parse_args(arguments)
    output, write = os.pipe()
    stop = _Stop()
    with warnings.catch_warnings():
        # Python 3.12 and newer warn of native threads, which libraries start at import; this process has no other thread
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        os.close(output)
        _become(options.module, options.arguments, write)
    os.close(write)
    stop.child = child
    log = PodLog(options.store, f"{options.folder}/{os.environ['POD_NAME']}.log")
    status = _copy(output, child, log, stop)
    if status < 0:
        failure = Failure(message=f"the process died by {death(-status)}", permanent=False)
        if not stop.requested:
            log.add(f"{format_message(failure)}\n".encode())
        status = 128 - status
    elif status and log.is_permanent():
        status = PERMANENT  # torchrun has one status for all failures
    log.push(wait=LAST_PUSH_SECONDS)
    if status not in {0, PERMANENT}:
        # When a node is lost, the other nodes of a training fail first. The Job must see the cause before that.
        deadline = time.monotonic() + options.linger
        while not stop.requested and time.monotonic() < deadline:
            time.sleep(TICK_SECONDS)
    return status


class _Stop:
    """Forwards SIGTERM to the child."""

    def __init__(self) -> None:
        self.requested = False
        self.child = 0
        signal.signal(signal.SIGTERM, self._forward)

    def _forward(self, *_: object) -> None:
        self.requested = True
        if self.child:
            os.kill(self.child, signal.SIGTERM)


class PodLog:
    """The output of a pod, in its own log and in the store."""

    def __init__(self, store: str, key: str) -> None:
        self.store, self.key = store, key
        self._data = bytearray()
        self._pushed = 0
        self._added = 0
        self._thread: threading.Thread | None = None

    def add(self, data: bytes) -> None:
        """Write output to the log of the container, and keep it for the store."""
        os.write(sys.stdout.fileno(), data)
        self._data += data
        self._added += len(data)
        del self._data[:-MAX_BYTES]

    def push(self, wait: float = 0.0) -> None:
        """Start to write the output to the store, unless that is running, and wait for it."""
        deadline = time.monotonic() + wait
        if self._thread:
            self._thread.join(wait)
        if (self._thread is None or not self._thread.is_alive()) and self._pushed < self._added:
            self._thread = threading.Thread(target=self._push, args=(bytes(self._data), self._added), daemon=True)
            self._thread.start()
            self._thread.join(max(0.0, deadline - time.monotonic()))

    def _push(self, data: bytes, added: int) -> None:
        try:
            open_storage(self.store).write(self.key, data)
            self._pushed = added
        except StoreError as error:
            print(f"the log is only in the cluster: {error}", file=sys.stderr, flush=True)

    def is_permanent(self) -> bool:
        """Return whether the output contains a failure that another attempt repeats."""
        messages, _ = parse_output(self._data.decode(errors="replace"))
        failure = first_failure(messages)
        return failure is not None and failure.permanent


def _become(module: str, arguments: list[str], output: int) -> None:
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    sys.exit(0)


def _copy(output: int, child: int, log: PodLog, stop: _Stop) -> int:
    """Copy the output of the child until it ends, and return its exit code."""
    os.set_blocking(output, False)
    selector = selectors.DefaultSelector()
    selector.register(output, selectors.EVENT_READ)
    pushed, reported = time.monotonic(), False
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        # a process that the child left behind may keep the pipe open
        readable = selector.select(0 if ended else TICK_SECONDS) if selector.get_map() else []
        while readable:
            try:
                data = os.read(output, 1 << 16)
            except BlockingIOError:
                break
            if not data:
                selector.unregister(output)
                break
            log.add(data)
        if ended:
            stop.child = 0
            return os.waitstatus_to_exitcode(status)
        if not selector.get_map():
            time.sleep(TICK_SECONDS)
        if time.monotonic() - pushed > PUSH_SECONDS or stop.requested > reported:
            pushed, reported = time.monotonic(), stop.requested
            log.push()


if __name__ == "__main__":
    sys.exit(main())
