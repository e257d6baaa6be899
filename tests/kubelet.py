"""Start the containers of the fake cluster's pods as processes of this machine.

Importing torch takes ten seconds and Dagster three, so one process that has imported them forks for every container that runs
a Python module or ``dagster``.
As a program, this module is that process. It reads a line with a JSON object for each container. It writes one when the
container has started, and one when it has ended.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from mobileclip2.executors.commands import LOGS, TORCHRUN
from tests.faults import arm

T = TypeVar("T")

POD = "FAKE_CLUSTER_POD"
MODULES = (
    "boto3",
    "mobileclip2.stages.captioner",
    "mobileclip2.stages.teacher_embeddings",
    "tests.dagster_pod",
    "tests.warm",
)
"""Modules that most containers would import."""


class Kubelet:
    """Containers by name.

    ``ended(name, status)`` is called from another thread. The status of a signal is 128 plus its number.
    ``modules`` are imported once for all containers.
    """

    def __init__(self, ended: Callable[[str, int], None], modules: tuple[str, ...] = MODULES) -> None:
        self.pids: dict[str, int] = {}
        self._doomed: dict[str, int] = {}
        self._lock = threading.Lock()
        self._ended = ended
        self._modules = modules
        self._process: subprocess.Popen[str] | None = None
        """Process that forks the containers. The first container starts it."""

    def _launch(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.kubelet", *self._modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def start(self, name: str, command: list[str], env: dict[str, str], log: Path, gate: dict[str, Any]) -> None:
        order = {"name": name, "command": command, "env": {**env, POD: name}, "log": str(log), "gate": gate}
        with self._lock:
            if self._process is None:
                self._process = self._launch()
                self._thread = threading.Thread(target=self._listen, args=(self._process,), daemon=True)
                self._thread.start()
            assert self._process.stdin
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()

    def signal(self, name: str, number: int) -> None:
        """Send SIGTERM to the first process of a container, as containerd does, or SIGKILL to all of them.

        A signal to a container without a process is sent as soon as it has one.
        """
        with self._lock:
            if name in self.pids:
                with suppress(ProcessLookupError):
                    if number == signal.SIGKILL:
                        os.killpg(self.pids[name], number)
                    else:
                        os.kill(self.pids[name], number)
            else:
                self._doomed[name] = number
        if number != signal.SIGKILL:
            return
        # torchrun's workers are in sessions of their own
        for environ in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if f"\0{POD}={name}\0".encode() in b"\0" + environ.read_bytes():
                    os.kill(int(environ.parent.name), number)

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout
        for line in process.stdout:
            event = json.loads(line)
            name = event["name"]
            if "pid" in event:
                with self._lock:
                    self.pids[name] = event["pid"]
                    number = self._doomed.pop(name, None)
                if number:
                    self.signal(name, number)
            else:
                with self._lock:
                    del self.pids[name]
                self._ended(name, event["status"])

    def close(self) -> None:
        if self._process is None:
            return
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(30)
        self._thread.join(30)


def serve() -> None:
    names: dict[int, str] = {}
    stdin = sys.stdin.fileno()
    os.set_blocking(stdin, False)
    waiting = b""
    while True:
        if select.select([stdin], [], [], 0.02)[0]:
            read = os.read(stdin, 1 << 16)
            if not read:
                break
            *lines, waiting = (waiting + read).split(b"\n")
            for line in lines:
                order = json.loads(line)
                pid = os.fork()
                if not pid:
                    become(order)
                os.setpgid(pid, pid)
                names[pid] = order["name"]
                tell(name=order["name"], pid=pid)
        while names:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            code = os.waitstatus_to_exitcode(status)
            tell(name=names.pop(pid), status=code if code >= 0 else 128 - code)
    for pid in names:
        with suppress(ProcessLookupError):
            os.killpg(pid, 9)


def tell(**event: Any) -> None:
    print(json.dumps(event), flush=True)


def become(order: dict[str, Any]) -> None:
    """Turn this forked process into the container. The function does not return."""
    status = 1
    try:
        os.setpgid(0, 0)
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.clear()
        os.environ.update(order["env"])
        # the first process of a container ignores signals that it does not handle
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        tempfile.tempdir = None  # the folder of the process that forks
        if "strikes" in order["gate"]:
            arm(**order["gate"])
        else:
            hold_at_gate(**order["gate"])
        program, *arguments = order["command"]
        if program == "dagster":
            program, arguments = "python", ["-m", "dagster", *arguments]
        if program != "python":
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a shell cannot trap a signal that was ignored at its start
            os.execvpe(program, order["command"], os.environ)
        assert arguments[0] == "-m"
        if TORCHRUN in arguments:
            os.execvpe(sys.executable, [sys.executable, *arguments], os.environ)
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else bool(ended.code)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def hold_at_gate(writes: str = "", gate: str = "", at: int = 0, wait: float = 0.0) -> None:
    """Record every stored file in ``writes`` before it gets its name, and wait at the ``at``-th while ``gate`` exists.

    With ``wait``, every file takes that many seconds more.
    """
    import time

    if not writes:
        return
    from mobileclip2.store import storage

    count = 0

    def noting(rename: Callable[[Path, Path], T]) -> Callable[[Path, Path], T]:
        def renaming(temporary: Path, target: Path) -> T:
            nonlocal count
            if f"/{LOGS}/" in str(target):  # a log, which the supervising process of a pod stores
                return rename(temporary, target)
            count += 1
            with Path(writes).open("a") as file:
                file.write(f"{target}\n")
            time.sleep(wait)
            while count == at and Path(gate).exists():
                time.sleep(0.01)
            return rename(temporary, target)

        return renaming

    Path.replace = noting(Path.replace)  # type: ignore[assignment, method-assign]
    storage.rename_exclusive = noting(storage.rename_exclusive)


if __name__ == "__main__":
    for module in sys.argv[1:]:
        importlib.import_module(module)
    gc.freeze()  # otherwise the first collection in each fork copies all pages
    serve()
    os._exit(0)  # a normal exit spends time on the imported modules
