"""Explain the signals that end a process."""

from __future__ import annotations

import signal

_NATIVE = (
    "run again; if it crashes at the same place, set OMP_NUM_THREADS=1 or ONEDNN_MAX_CPU_ISA=AVX2, or install another version "
    "of torch, and report the crash"
)
DEATHS = {
    signal.SIGSEGV: ("it crashed in native code (segmentation fault)", _NATIVE),
    signal.SIGABRT: ("native code aborted, because of corrupted memory or an unhandled error", _NATIVE),
    signal.SIGFPE: ("native code divided by zero", _NATIVE),
    signal.SIGBUS: (
        "it accessed invalid mapped memory: a mapped file was truncated, or a disk or /dev/shm is full",
        "free space on the disk of the store, of TMPDIR and of /dev/shm, and run again",
    ),
    signal.SIGILL: (
        "it used an instruction that this CPU does not support",
        "set ONEDNN_MAX_CPU_ISA=AVX2, or install a build of torch for this CPU, and run again",
    ),
    signal.SIGKILL: (
        "it was killed, perhaps for lack of memory",
        "lower 'batch' or 'compute.processes' in the profile, or add memory, and run again",
    ),
}
"""signal -> (explanation, remedy)"""


def death(number: int) -> str:
    """Return the name of a signal, its explanation and a remedy."""
    explanation, remedy = DEATHS.get(number, ("another process ended it", "run again"))  # type: ignore[call-overload]
    return f"{signal_name(number)}: {explanation}; finished shards are kept; {remedy}"


def signal_name(number: int) -> str:
    """Return a name such as ``SIGSEGV``."""
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
