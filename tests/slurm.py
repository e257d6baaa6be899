"""A real Slurm cluster on loopback: munged, slurmctld and two slurmd of Debian's packages, for as long as a test needs it."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.waiting import until

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "srun")
NODES = ("n1", "n2")
CORES = 2


def installed() -> bool:
    """Return whether Slurm is installed and this user is root. Slurm's daemons need root to run other users' jobs."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    return os.geteuid() == 0 and all(shutil.which(name, path=path) for name in PROGRAMS)


class SlurmCluster:
    """Two nodes with two cores each. A job in the partition ``high`` preempts jobs in the partition ``low``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.configuration = folder / "slurm.conf"
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        munge = self.folder / "munge"
        munge.mkdir(mode=0o755)
        (munge / "key").write_bytes(secrets.token_bytes(1024))
        (munge / "key").chmod(0o400)
        for name in ("state", *(f"spool-{node}" for node in NODES)):
            (self.folder / name).mkdir()
        self.configuration.write_text(self._text(munge / "socket"))
        self._run(
            "munged", "--foreground", "--force", f"--key-file={munge / 'key'}", f"--socket={munge / 'socket'}",
            f"--pid-file={munge / 'pid'}", f"--log-file={munge / 'log'}", f"--seed-file={munge / 'seed'}",
        )  # fmt: skip
        until(lambda: (munge / "socket").exists(), 20)
        self.start_controller()
        for node in NODES:
            self.start_node(node)
        until(lambda: self.command("sinfo", "-h", "-p", "low", "-o", "%T %D").split() == ["idle", "2"], 60)

    def start_controller(self) -> None:
        self._run("slurmctld", "-D", "-f", str(self.configuration))

    def start_node(self, node: str) -> None:
        self._run("slurmd", "-D", "-N", node, "-f", str(self.configuration), key=node)

    def kill(self, name: str) -> None:
        """Kill a daemon: ``slurmctld``, or a node with all processes of its jobs."""
        daemon = self._daemons.pop(name)
        pids = [daemon.pid, *(_descendants_of_node(name) if name in NODES else [])]
        for pid in pids:
            _kill(pid)
        daemon.wait()

    def command(self, *command: str) -> str:
        environment = {**os.environ, "SLURM_CONF": str(self.configuration)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        return done.stdout if done.returncode == 0 else ""

    def stop(self) -> None:
        self.command("scancel", "--user=root")
        for daemon in self._daemons.values():
            daemon.terminate()
        for daemon in self._daemons.values():
            try:
                daemon.wait(15)
            except subprocess.TimeoutExpired:
                daemon.kill()
        for node in NODES:
            for pid in _descendants_of_node(node):
                _kill(pid)

    def _run(self, program: str, *arguments: str, key: str | None = None) -> None:
        path = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin")
        assert path
        log = (self.folder / f"{key or program}.out").open("ab")
        environment = {**os.environ, "SLURM_CONF": str(self.configuration)}
        self._daemons[key or program] = subprocess.Popen([path, *arguments], stdout=log, stderr=log, env=environment)

    def _text(self, munge: Path) -> str:
        ports = _free_ports(1 + len(NODES))
        host = socket.gethostname()
        nodes = "\n".join(
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={CORES} RealMemory=4000 State=UNKNOWN"
            for node, port in zip(NODES, ports[1:], strict=True)
        )
        return f"""
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
MpiDefault=none
AuthType=auth/munge
AuthInfo=socket={munge},cred_expire=20
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={self.folder / "state"}
SlurmdSpoolDir={self.folder}/spool-%n
SlurmctldPidFile={self.folder}/slurmctld.pid
SlurmdPidFile={self.folder}/slurmd-%n.pid
SlurmctldLogFile={self.folder}/slurmctld.log
SlurmdLogFile={self.folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=2
OverTimeLimit=0
SlurmdTimeout=10
InactiveLimit=0
SchedulerParameters=batch_sched_delay=1,sched_interval=2,bf_interval=2
{nodes}
PartitionName=low Nodes={",".join(NODES)} Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE
PartitionName=high Nodes={",".join(NODES)} MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


@contextmanager
def slurm_cluster() -> Iterator[SlurmCluster]:
    """Start a cluster. The commands of this process and of its children reach it by ``SLURM_CONF``."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    cluster = SlurmCluster(folder)
    before = os.environ.get("SLURM_CONF")
    try:
        cluster.start()
        os.environ["SLURM_CONF"] = str(cluster.configuration)
        yield cluster
    finally:
        cluster.stop()
        if before is None:
            os.environ.pop("SLURM_CONF", None)
        else:
            os.environ["SLURM_CONF"] = before
        shutil.rmtree(folder, ignore_errors=True)


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _descendants_of_node(node: str) -> list[int]:
    """Return the processes that a node started. Slurm puts the node's name into their environment."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            environment = (process / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"SLURMD_NODENAME={node}".encode() in environment:
            found.append(int(process.name))
    return found


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def wait_for(cluster: SlurmCluster, name: str, state: str, seconds: float = 60) -> None:
    """Wait until a job of this name has a task in this state."""
    until(
        lambda: state in cluster.command("squeue", "-h", "-r", "-t", "all", f"--name={name}", "-o", "%T").split(),
        seconds,
    )
