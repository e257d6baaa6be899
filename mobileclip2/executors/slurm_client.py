"""Commands of Slurm, on this machine or on a login node."""

from __future__ import annotations

import re
import shlex
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from mobileclip2.errors import ComputeError

T = TypeVar("T")

COMMAND_SECONDS = 60.0
UNREACHABLE = re.compile(
    r"unable to contact slurm controller|connection refused|timed out|socket|try again|resource temporarily",
    re.IGNORECASE,
)
"""messages of commands that can succeed later"""
UNKNOWN = re.compile(r"invalid job id", re.IGNORECASE)

ENDED = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "REVOKED",
    "TIMEOUT",
}


@dataclass(frozen=True)
class JobTask:
    """The state of a job, or of one task of an array job."""

    index: int
    """array index; 0 without an array"""
    state: str
    reason: str

    @property
    def ended(self) -> bool:
        """Return whether the task does not run again by itself."""
        return self.state in ENDED


class SlurmClient:
    """Runs ``sbatch``, ``squeue``, ``sacct`` and ``scancel``.

    Commands are tried again for up to ``patience`` seconds while the controller is unreachable.

    Raises:
        ComputeError: a command is missing, stays without an answer, or is refused.
    """

    def __init__(self, ssh: str | None = None, *, patience: float = 900.0, pause: float = 5.0) -> None:
        self._prefix = ["ssh", "-o", "BatchMode=yes", ssh] if ssh else []
        self.patience = patience
        self.pause = pause

    def submit(self, script: str, name: str) -> int:
        """Submit a script and return the id of its job.

        The answer to a successful submission can be lost, so a retry first looks for a job of this name.
        """
        before = self.active(name)

        def attempt() -> int:
            submitted = [job for job in self.active(name) if job not in before]
            if submitted:
                return submitted[0]
            return int(self._run_once("sbatch", "--parsable", script=script).split(";")[0])

        return self._with_retries(attempt)

    def active(self, name: str) -> list[int]:
        """Return the ids of the jobs of this user with a name, if they have not ended."""
        listed = self._run("squeue", "--noheader", "--me", f"--name={name}", "--format=%F")
        return sorted({int(line) for line in listed.split()})

    def tasks(self, job: int) -> list[JobTask]:
        """Return the tasks of a job. The list is empty if Slurm no longer knows the job.

        The controller knows an ended job for ``MinJobAge`` seconds, and ``sacct`` knows it afterwards, if accounting is on.
        """
        try:
            rows = self._run("squeue", "--noheader", "--array", "--states=all", f"--job={job}", "--format=%K|%T|%r")
        except ComputeError as error:
            if not UNKNOWN.search(str(error)):
                raise
            rows = self._accounted(job)
        return [_parse(row) for row in rows.splitlines() if row.strip()]

    def comment(self, job: int) -> str:
        """Return the comment of a job that has not ended."""
        rows = self._run("squeue", "--noheader", f"--job={job}", "--format=%k")
        return rows.split("\n", 1)[0].strip()

    def max_array_size(self) -> int:
        """Return the largest array that the cluster accepts."""
        match = re.search(r"MaxArraySize\s*=\s*(\d+)", self._run("scontrol", "show", "config"))
        return max(1, int(match[1]) - 1) if match else 1000

    def release(self, job: int) -> None:
        """Release a job that Slurm holds after a failed launch."""
        self._run("scontrol", "release", str(job))

    def cancel(self, job: int) -> None:
        """Cancel a job. Do nothing if it has ended."""
        try:
            self._run("scancel", str(job))
        except ComputeError as error:
            if not UNKNOWN.search(str(error)):
                raise

    def _accounted(self, job: int) -> str:
        try:
            rows = self._run_once(
                "sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={job}", "--format=JobID,State"
            )
        except (ComputeError, ConnectionError):
            return ""  # accounting is off
        fields = [row.split("|") for row in rows.splitlines() if "|" in row]
        return "\n".join(f"{name.partition('_')[2] or 'N/A'}|{state.split()[0]}|accounting" for name, state in fields)

    def _run(self, *command: str) -> str:
        return self._with_retries(lambda: self._run_once(*command))

    def _with_retries(self, attempt: Callable[[], T]) -> T:
        deadline = time.monotonic() + self.patience
        while True:
            try:
                return attempt()
            except ConnectionError as error:
                if time.monotonic() > deadline:
                    raise ComputeError(
                        f"compute.slurm: {error}, for {self.patience:.0f} s; run again when it is back"
                    ) from None
                time.sleep(self.pause)

    def _run_once(self, *command: str, script: str | None = None) -> str:
        line = [*self._prefix, shlex.join(command)] if self._prefix else list(command)
        try:
            done = subprocess.run(
                line, input=script, capture_output=True, text=True, errors="replace", timeout=COMMAND_SECONDS
            )
        except FileNotFoundError:
            raise ComputeError(
                f"compute.slurm: there is no command '{line[0]}' on this machine; run on a login node, or set 'ssh'"
            ) from None
        except subprocess.TimeoutExpired:
            raise ConnectionError(f"{command[0]} gave no answer in {COMMAND_SECONDS:.0f} s") from None
        if done.returncode == 0:
            return done.stdout
        message = done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}"
        if UNREACHABLE.search(message) or (self._prefix and done.returncode == 255):
            raise ConnectionError(f"{command[0]}: {message}")
        raise ComputeError(f"compute.slurm: {command[0]}: {message}")


def _parse(row: str) -> JobTask:
    index, state, reason = row.strip().split("|")
    # squeue writes a reason with spaces, scontrol and the documentation with underscores
    return JobTask(int(index) if index.isdigit() else 0, state, reason.replace(" ", "_"))
