"""The command lines of worker processes, on this machine and in pods."""

from __future__ import annotations

WORKER = "mobileclip2.executors.worker"
TORCHRUN = "mobileclip2.executors.torchrun"
POD = "mobileclip2.executors.pod"
LOGS = ".logs"
"""folder of the logs of pods in the store"""


def worker_command(python: str, store: str, key: str) -> list[str]:
    """Return the command that runs the task spec ``key`` of a store."""
    return [python, "-m", WORKER, store, key]


def pod_command(command: list[str], store: str, job: str, linger: int = 0) -> list[str]:
    """Return ``command``, which runs a module, as the process of a pod that keeps its log in the store.

    The process ends ``linger`` seconds after a failure.
    """
    python, _, *module = command
    return [python, "-m", POD, *([f"--linger={linger}"] if linger else []), store, f"{LOGS}/{job}", *module]


LOOPBACK = "127.0.0.1"
ON_THIS_MACHINE = ["--nnodes=1", "--rdzv-backend=c10d", "--rdzv-conf=store_type=file", f"--local-addr={LOOPBACK}"]
"""torchrun's options for ranks that meet in a private temporary file; ``--standalone`` listens on every interface"""


def torchrun_command(worker: list[str], processes: int, rendezvous: list[str]) -> list[str]:
    """Return the command that runs a worker in ``processes`` ranks on each node, with torchrun's options for their rendezvous."""
    python, *module = worker
    return [python, "-m", TORCHRUN, *rendezvous, f"--nproc-per-node={processes}", *module]
