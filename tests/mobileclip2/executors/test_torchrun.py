"""Trainings with the real torchrun: their weights, and the ways in which their ranks end."""

import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.errors import ComputeError, UserError
from mobileclip2.executors.commands import ON_THIS_MACHINE, TORCHRUN, torchrun_command, worker_command
from mobileclip2.executors.local import LocalExecutor
from mobileclip2.models.build import WEIGHTS
from mobileclip2.progress import Step
from tests.processes import descendants
from tests.tiny import make_tiny

pytestmark = pytest.mark.slow


def test_torchrun_trains_the_weights_of_one_process(tmp_path):
    weights = []
    for processes in (1, 2):
        pipeline = Pipeline(load(make_tiny(tmp_path / str(processes))))
        for group in pipeline.profile.group_names:
            pipeline.materialize("raw_shards", group)
        pipeline.compute = LocalExecutor(processes)
        steps = []
        assert pipeline.materialize("student/plain", progress=steps.append).computed == ["whole"]
        assert steps[-1].unit == "steps" and steps[-1].done == steps[-1].total == 4 and steps[-1].numbers["loss"] > 0
        (read,) = pipeline.read("student/plain")
        assert read.verify(read.manifest) == []
        weights.append(load_file(read.fetch(WEIGHTS)))
    for name, alone in weights[0].items():
        torch.testing.assert_close(learned(name, weights[1][name]), learned(name, alone), atol=1e-4, rtol=1e-3)


def learned(name, weight):
    """Drop the key biases of attention. They do not affect softmax, so Adam amplifies the noise of their gradients."""
    if name.endswith("in_proj_bias"):
        queries, _, values = weight.chunk(3)
        return torch.cat([queries, values])
    return weight


MEET = """
import os, time, torch
from mobileclip2.training.distributed import join
with join("cpu") as world:
    assert world.mean(torch.ones(1)).item() == 1 and world.size == 2
    os.write(1, b"ready\\n")  # in one piece, because both ranks write
    time.sleep(60)
"""


def listening(process: int) -> set[str]:
    """Return the addresses on which a process and its descendants listen, as the kernel writes them."""
    links = (link for each in descendants(process) for link in Path(f"/proc/{each}/fd").iterdir())
    inodes = {str(link.readlink()) for link in links if link.is_symlink()}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in inodes:
                found.add(local.partition(":")[0])
    return found


def test_ranks_on_one_machine_listen_only_on_loopback(tmp_path):
    script = tmp_path / "meet.py"
    script.write_text(MEET)
    command = torchrun_command(worker_command(sys.executable, "store", "key"), 2, ON_THIS_MACHINE)
    command = [*command[: command.index("--nproc-per-node=2") + 1], str(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert [process.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
            assert listening(process.pid) == {"0100007F"}
        finally:
            process.terminate()  # torchrun ends its ranks, which have sessions of their own


PROLOGUE = """
import os, signal, sys, time
from mobileclip2.executors.messages import Failure, StepReport, send
from mobileclip2.progress import Step
rank = int(os.environ["RANK"])
if rank == 0:
    print("a library says hello")
    print('::mobileclip2:: {"kind": "failure", "message": 7}', flush=True)
    print("without an end ", end="", flush=True)
    send(StepReport(step=Step(3, 4, "steps", {"loss": 0.5})))
    time.sleep(60)
time.sleep(1)  # the output of rank 0 comes first
"""
ENDS = {
    "refuses": "send(Failure(message='bad shard:\\n  truncated-image: 1', permanent=True)); sys.exit(65)",
    "cannot reach the store": "send(Failure(message='the store is away', permanent=False)); sys.exit(1)",
    "crashes": "os.kill(os.getpid(), signal.SIGSEGV)",
    "raises": "raise ZeroDivisionError('a fault')",
}


@pytest.mark.parametrize(
    ("end", "error", "words"),
    [
        ("refuses", UserError, r"^bad shard:\n  truncated-image: 1$"),
        ("cannot reach the store", ComputeError, "^student/x: the store is away$"),
        ("crashes", ComputeError, "^student/x: a training process died by SIGSEGV: it crashed in native code"),
        ("raises", ComputeError, r"^student/x: torchrun failed\n(.|\n)*ZeroDivisionError: a fault"),
    ],
)
def test_the_failure_of_a_rank_is_reported_as_the_cause(end, error, words, tmp_path, monkeypatch, capfd):
    script = tmp_path / "rank.py"
    script.write_text(f"{PROLOGUE}{ENDS[end]}\n")
    command = [sys.executable, "-m", TORCHRUN, "--standalone", "--nproc-per-node=2", str(script)]
    monkeypatch.setattr("mobileclip2.executors.local.torchrun_command", lambda *_: command)
    steps = []
    batch = SimpleNamespace(asset=SimpleNamespace(key="student/x"), progress=steps.append)
    with pytest.raises(error, match=words) as raised:
        LocalExecutor(2)._run_torchrun(batch, SimpleNamespace(store="", key=""))
    assert type(raised.value) is error
    assert steps == [Step(3, 4, "steps", {"loss": 0.5})]
    shown = capfd.readouterr().err.splitlines()
    assert "a library says hello" in shown and "without an end " in shown
    assert '::mobileclip2:: {"kind": "failure", "message": 7}' in shown, "an invalid message is text"


def test_ranks_can_save_on_sigterm_and_torchrun_prints_no_traceback(tmp_path):
    script = tmp_path / "rank.py"
    script.write_text(
        "import os, signal, sys, time\n"
        # one write each, because the ranks share their stdout
        "signal.signal(signal.SIGTERM, lambda *_: (os.write(1, b'saved\\n'), sys.exit(1)))\n"
        "os.write(1, b'up\\n')\n"
        "time.sleep(600)\n"
    )
    command = [sys.executable, "-m", TORCHRUN, "--standalone", "--nproc-per-node=2", str(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if lines.count("up\n") == 2 and line == "up\n":
                process.send_signal(signal.SIGTERM)
    assert process.returncode == 128 + signal.SIGTERM
    assert lines.count("saved\n") == 2 and "Traceback" not in "".join(lines)
