"""A PostgreSQL server of Debian's package on loopback, for as long as a test or a benchmark needs it."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

USER = "dagster"


def binaries() -> Path | None:
    """Return the folder of the programs of the newest installed server, or None."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


@contextmanager
def server() -> Iterator[dict[str, str | int]]:
    """Start a server with an empty database. Yield the value of Dagster's ``storage.postgres.postgres_db``.

    PostgreSQL refuses to run as root, so root starts it as the user that Debian's package creates.
    """
    programs = binaries()
    assert programs, "PostgreSQL is not installed"
    account = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
    run_as: dict[str, Any] = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": ()} if account else {}
    folder, password = Path(tempfile.mkdtemp(prefix="postgres-")), secrets.token_hex(16)
    try:
        (folder / "password").write_text(password)
        if account:
            for path in (folder, folder / "password"):
                os.chown(path, account.pw_uid, account.pw_gid)

        def program(name: str, *arguments: str) -> None:
            command = [str(programs / name), "-D", str(folder / "data"), *arguments]
            subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, **run_as)

        program("initdb", "-U", USER, "--pwfile", str(folder / "password"), "-A", "scram-sha-256", "--no-sync")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        settings = f"-p {port} -c listen_addresses=127.0.0.1 -k {folder}"
        program("pg_ctl", "start", "-w", "-l", str(folder / "log"), "-o", settings)
        try:
            database = {"username": USER, "password": password, "hostname": "127.0.0.1", "db_name": "postgres"}
            yield {**database, "port": port}
        finally:
            program("pg_ctl", "stop", "-w", "-m", "fast")
    finally:
        shutil.rmtree(folder)
