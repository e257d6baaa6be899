"""The one place that calls DVC. Its lock on a repository does not wait, so that two callers would fail each other."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from mobileclip2.errors import LedgerError

WAIT_SECONDS = 60.0
"""for another DVC process, such as ``dvc push``"""
POLL_SECONDS = 1.0

LOCKED = ("Unable to acquire lock", "is busy, it is being blocked by")


def called_by_dvc() -> bool:
    """Whether this process is the command of a stage that DVC runs; then DVC itself writes ``dvc.lock``."""
    return "DVC_STAGE" in os.environ


def check_repository(folder: Path) -> None:
    """Raise ``LedgerError`` unless a folder lies in a git and a DVC repository."""
    above = [folder, *folder.parents]
    for name, remedy in ((".git", "git init"), (".dvc", "dvc init")):
        if not any((place / name).exists() for place in above):
            raise LedgerError(
                f"{folder}: not in a {name.removeprefix('.')} repository; "
                f"run '{remedy}' there, or leave 'ledger' out of the profile"
            )


def command() -> str:
    """Return the ``dvc`` beside the interpreter, where ``make setup`` links it, or else that of ``PATH``.

    Raises:
        LedgerError: there is none.
    """
    beside = Path(sys.executable).with_name("dvc")
    found = shutil.which(beside) or shutil.which("dvc")
    if not found:
        raise LedgerError(
            "the ledger needs DVC, and there is no command 'dvc'; 'make setup' installs it in a checkout, "
            "'uv tool install \"dvc[s3]\"' elsewhere; or leave 'ledger' out of the profile"
        )
    return found


def dvc(folder: Path, *arguments: str) -> None:
    """Run a command of DVC in a folder. Wait a while if another process holds the repository.

    Raises:
        LedgerError: DVC is not installed, failed or was held for too long.
    """
    program = command()
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    until = time.monotonic() + WAIT_SECONDS
    while True:
        done = subprocess.run(
            [program, *arguments],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 0:
            return
        if not any(sign in done.stderr for sign in LOCKED):
            said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr.strip()]
            raise LedgerError(
                f"{folder}: 'dvc {arguments[0]}' failed: {' '.join(said)[:500]}; mend that and run 'mobileclip2 ledger'"
            )
        if time.monotonic() > until:
            raise LedgerError(
                f"{folder}: another DVC process has held the repository for {WAIT_SECONDS:.0f} s; "
                "run 'mobileclip2 ledger' when it has ended"
            )
        time.sleep(POLL_SECONDS)
