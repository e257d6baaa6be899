"""Dagster's own processes, as on a server: a code server, a webserver and an optional daemon."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from tests.ui.server import GUARDED, free_port

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
START_SECONDS = 120
LOCATION = "mobileclip2-0123abcd"

FAST_DAEMON = (
    sys.executable,
    "-c",
    """
import dagster._daemon.controller as controller
controller.DEFAULT_DAEMON_INTERVAL_SECONDS = 3
from dagster._daemon.cli import main
main()
""",
)
"""Dagster's daemon, which checks backfills every 3 seconds instead of every 30 seconds."""


class Dagster:
    """The code server and the webserver of a profile, and a daemon after :meth:`with_daemon`.

    Args:
        settings: a ``dagster.yaml``.
        code: further arguments of the code server.
        daemon: the daemon's command.
        url: the webserver's URL, by default on a free port.
    """

    def __init__(
        self,
        profile: Path,
        folder: Path,
        stack: ExitStack,
        settings: Path = ROOT / "pipelines" / "dagster.yaml",
        code: tuple[str, ...] = (),
        daemon: tuple[str, ...] = (str(BIN / "dagster-daemon"),),
        url: str | None = None,
    ) -> None:
        self.folder, self.stack = folder, stack
        self.url = url or f"http://127.0.0.1:{free_port()}"
        self.environment = {
            **os.environ,
            "DAGSTER_HOME": str(folder),
            "MOBILECLIP2_PROFILE": str(profile),
            "MOBILECLIP2_CACHE": str(folder / "cache"),
            "MOBILECLIP2_DAGSTER": self.url,
        }
        shutil.copy(settings, folder / "dagster.yaml")
        port = free_port()
        self.workspace = folder / "workspace.yaml"
        self.workspace.write_text(
            f"load_from: [{{grpc_server: {{host: 127.0.0.1, port: {port}, location_name: {LOCATION}}}}}]"
        )
        # The servers start one after the other, because both create the tables of the same new database.
        serves = ("api", "grpc", "-m", "pipelines.definitions", "-h", "127.0.0.1", "-p", str(port))
        self.start(str(BIN / "dagster"), *serves, *code)
        self.await_log("Started Dagster code server")
        port_of_web = self.url.rpartition(":")[2]
        web = ("-w", str(self.workspace), "-h", "127.0.0.1", "-p", port_of_web)
        self.web = self.start(str(BIN / "dagster-webserver"), *web)
        self.await_log("Serving dagster-webserver")
        self.await_port(int(port_of_web))
        self.daemon: subprocess.Popen[bytes] | None = None
        self.daemon_command = daemon

    def with_daemon(self) -> Dagster:
        if self.daemon is None:
            self.daemon = self.start(*self.daemon_command, "run", "-w", str(self.workspace))
        return self

    def start(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                ["sh", "-c", GUARDED, "sh", program, *arguments],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.stack.callback(kill, process)
        return process

    def await_log(self, text: str) -> None:
        until = time.monotonic() + START_SECONDS
        while text not in (log := (self.folder / "log").read_text()):
            assert time.monotonic() < until, log[-4000:]
            time.sleep(0.2)

    @staticmethod
    def await_port(port: int) -> None:
        """Wait until the port accepts connections. The webserver logs its start before it listens."""
        until = time.monotonic() + START_SECONDS
        while True:
            try:
                return socket.create_connection(("127.0.0.1", port), timeout=5).close()
            except OSError:
                assert time.monotonic() < until
                time.sleep(0.1)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all processes that it has started."""
    assert process.stdin
    process.stdin.close()
    process.wait()
