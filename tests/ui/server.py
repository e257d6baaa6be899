"""The web interface as users start it, with ``make ui``, on its own port."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]
START_SECONDS = 240
STOP_SECONDS = 20

GUARDED = 'exec 3<&0; (cat <&3; kill -KILL 0) >/dev/null & exec "$@" </dev/null 3<&-'
"""Runs a command whose process group is killed when the process at the other end of its stdin ends or is killed."""


@contextmanager
def serve(profile: Path, folder: Path) -> Iterator[str]:
    """Yield the address of a running interface of ``profile``. Its history and log are in ``folder``.

    All processes that it started have ended when the block ends.
    """
    home, log = folder / "dagster", folder / "server.log"
    home.mkdir()
    shutil.copy(ROOT / "pipelines" / "dagster.yaml", home)
    port = free_port()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    environment = {
        **inherited,
        "DAGSTER_HOME": str(home),
        "MOBILECLIP2_PROFILE": str(profile),
        "MOBILECLIP2_CACHE": str(folder / "cache"),
        "PORT": str(port),
        "PYTHONPATH": str(Path(__file__).with_name("fast_daemon")),
    }
    # The environment that runs this test is already set up.
    command = ["make", "--assume-old=.venv/.ready", "ui"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["sh", "-c", GUARDED, "sh", *command],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        await_answer(f"{url}/server_info", process, log)
        yield url
    finally:
        stop(process)


def await_answer(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        try:
            direct.open(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.3)
    raise AssertionError(f"the interface does not answer; its log:\n{log.read_text()[-4000:]}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """Send Ctrl-C to the process group, and kill the group after ``STOP_SECONDS``."""
    assert process.stdin
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    process.stdin.close()
    process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
