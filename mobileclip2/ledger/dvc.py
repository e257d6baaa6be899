"""Calls to DVC. They retry while another process holds the repository, because DVC's lock does not wait."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from mobileclip2.errors import LedgerError

WAIT_SECONDS = 60.0
"""time to wait for another DVC process, such as ``dvc push``"""
POLL_SECONDS = 1.0

LOCKED = ("Unable to acquire lock", "is busy, it is being blocked by")


def called_by_dvc() -> bool:
    """Return whether DVC runs this process as a stage's command. DVC then writes ``dvc.lock`` itself."""
    return "DVC_STAGE" in os.environ


def check_repository(folder: Path) -> None:
    """Raise ``LedgerError`` unless the folder is in a git and a DVC repository."""
    parents = [folder, *folder.parents]
    for name, remedy in ((".git", "git init"), (".dvc", "dvc init")):
        if not any((parent / name).exists() for parent in parents):
            raise LedgerError(
                f"{folder}: not in a {name.removeprefix('.')} repository; "
                f"run '{remedy}' there, or remove 'ledger' from the profile"
            )


def command() -> str:
    """Return the path of ``dvc``: beside the interpreter, where ``make setup`` links it, or in ``PATH``.

    Raises:
        LedgerError: DVC is not installed.
    """
    beside = Path(sys.executable).with_name("dvc")
    found = shutil.which(beside) or shutil.which("dvc")
    if not found:
        raise LedgerError(
            "the ledger needs DVC, and there is no command 'dvc'; 'make setup' installs it in a checkout, "
            "'uv tool install \"dvc[s3]\"' elsewhere; or remove 'ledger' from the profile"
        )
    return found


def dvc(folder: Path, *arguments: str) -> None:
    """Run a DVC command in a folder. Wait up to :data:`WAIT_SECONDS` if another process holds the repository.

    Raises:
        LedgerError: DVC is not installed, the command failed, or another process held the repository for too long.
    """
    program = command()
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        process = subprocess.run(
            [program, *arguments],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if process.returncode == 0:
            return
        if not any(message in process.stderr for message in LOCKED):
            lines = process.stderr.splitlines()
            errors = [line for line in lines if line.startswith("ERROR")] or [process.stderr.strip()]
            raise LedgerError(
                f"{folder}: 'dvc {arguments[0]}' failed: {' '.join(errors)[:500]}; fix that and run 'mobileclip2 ledger'"
            )
        if time.monotonic() > deadline:
            raise LedgerError(
                f"{folder}: another DVC process has held the repository for {WAIT_SECONDS:.0f} s; "
                "run 'mobileclip2 ledger' after it has ended"
            )
        time.sleep(POLL_SECONDS)
