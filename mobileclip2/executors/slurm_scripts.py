"""Build the batch scripts of Slurm jobs from the settings of a profile."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from mobileclip2.config.slurm import Slurm, SlurmStage
from mobileclip2.executors.commands import ON_THIS_MACHINE, torchrun_command

FIRST_PORT, PORTS = 20_000, 20_000
"""rendezvous ports; each job has the one of its id"""


def array_script(
    slurm: Slurm, stage: SlurmStage, name: str, log: Path, worker: list[str], of: int, chunks: Sequence[int]
) -> str:
    """Write the script of an array job with one task for each of ``chunks``, of ``of`` in total."""
    options = [
        f"--array={_ranges(chunks)}%{stage.tasks}",
        f"--output={log}/%a.log",
        f"--comment=of={of}",
        *_options(slurm, stage, name),
    ]
    command = shlex.join([*worker, "--of", str(of)])
    lines = ["export JOB_COMPLETION_INDEX=$SLURM_ARRAY_TASK_ID", f"exec {command}"]
    return _script(options, slurm, lines)


def unsharded_script(slurm: Slurm, stage: SlurmStage, name: str, log: Path, worker: list[str], *, trains: bool) -> str:
    """Write the script of a job without shards: one process, or torchrun on all nodes of the stage.

    ``srun`` passes signals on to every node, and ends the other nodes if one fails.
    """
    nodes, processes = (stage.nodes, max(1, stage.gpus)) if trains else (1, 1)
    options = [f"--nodes={nodes}", "--ntasks-per-node=1", f"--output={log}/0.log", *_options(slurm, stage, name)]
    if trains:
        options.append(f"--signal=TERM@{slurm.grace_seconds}")
    if nodes == 1:
        command = worker if processes == 1 else torchrun_command(worker, processes, ON_THIS_MACHINE)
        return _script(options, slurm, [f"exec srun {shlex.join(command)}"])
    # torchrun also reads its options from PET_ variables
    command = torchrun_command(worker, processes, [f"--nnodes={nodes}"])
    lines = [
        'HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
        "export PET_MASTER_ADDR=$(scontrol show node -o \"$HEAD\" | sed 's/.*NodeAddr=\\([^ ]*\\).*/\\1/')",
        f"export PET_MASTER_PORT=$(({FIRST_PORT} + SLURM_JOB_ID % {PORTS}))",
        f"exec srun --kill-on-bad-exit=1 bash -c 'PET_NODE_RANK=$SLURM_NODEID exec \"$@\"' node {shlex.join(command)}",
    ]
    return _script(options, slurm, lines)


def _options(slurm: Slurm, stage: SlurmStage, name: str) -> list[str]:
    gpus = [f"--gres={slurm.gres}:{stage.gpus}"] if stage.gpus else []
    named = {"partition": stage.partition, "account": stage.account, "qos": stage.qos}
    return [
        f"--job-name={name}",
        f"--cpus-per-task={stage.cpus}",
        f"--mem={stage.memory}",
        f"--time={stage.minutes}",
        *gpus,
        "--requeue",  # after a preemption or a lost node
        "--open-mode=append",
        *(f"--{option}={value}" for option, value in named.items() if value),
        *stage.options,
    ]


def _script(options: list[str], slurm: Slurm, lines: list[str]) -> str:
    head = ["#!/bin/bash", *(f"#SBATCH {option}" for option in options), "set -e"]
    return "\n".join([*head, *slurm.setup, *lines, ""])


def _ranges(numbers: Sequence[int]) -> str:
    """Return the numbers as ``sbatch`` takes them: ``0-2,5``."""
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
