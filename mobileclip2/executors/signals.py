"""What it means when a signal ends a process, in words."""

from __future__ import annotations

import signal

_NATIVE = (
    "run again; if it crashes at the same place, set OMP_NUM_THREADS=1 or ONEDNN_MAX_CPU_ISA=AVX2, or install another version "
    "of torch, and report the crash"
)
DEATHS = {
    signal.SIGSEGV: ("it crashed in native code (segmentation fault)", _NATIVE),
    signal.SIGABRT: ("native code found damaged memory or an error that it cannot handle, and aborted", _NATIVE),
    signal.SIGFPE: ("native code divided by zero", _NATIVE),
    signal.SIGBUS: (
        "it read memory that is not there: a mapped file was cut off, or a disk or /dev/shm is full",
        "free space on the disk of the store, of TMPDIR and of /dev/shm, and run again",
    ),
    signal.SIGILL: (
        "it met an instruction that this CPU does not have",
        "set ONEDNN_MAX_CPU_ISA=AVX2, or install a build of torch for this CPU, and run again",
    ),
    signal.SIGKILL: (
        "it was killed, perhaps for lack of memory",
        "lower 'batch' or 'compute.processes' in the profile, or give it more memory, and run again",
    ),
}
"""signal -> what it means, and what to try"""


def death(number: int) -> str:
    """Say which signal ended a process, what that means and what to try."""
    means, remedy = DEATHS.get(number, ("another process ended it", "run again"))  # type: ignore[call-overload]
    return f"{signal_name(number)}: {means}; finished shards are kept; {remedy}"


def signal_name(number: int) -> str:
    """Return a name such as ``SIGSEGV``."""
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
