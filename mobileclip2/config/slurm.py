"""The ``compute.slurm`` section of a profile: a Slurm cluster that runs every stage."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, model_validator

from mobileclip2.config.location import LocalPath
from mobileclip2.config.settings import Settings, Stage, undeclared


def _is_option(line: str) -> str:
    if not re.fullmatch(r"--[a-z][a-z0-9-]*(=[^\n\r]*)?", line):
        raise ValueError(f"'{line}' is not an option of sbatch; write it as --name=value, such as --constraint=a100")
    return line


Option = Annotated[str, AfterValidator(_is_option)]


class SlurmStage(Settings):
    """Resources of one stage. Resources are per node."""

    nodes: int = undeclared(1, ge=1)
    """nodes of a training"""
    tasks: int = undeclared(16, ge=1)
    """array tasks that run at once, for stages that process shard by shard"""
    gpus: int = undeclared(0, ge=0)
    cpus: int = undeclared(4, ge=1)
    memory: str = undeclared("16G", pattern=r"^[1-9][0-9]*[KMGT]?$")
    minutes: int = undeclared(24 * 60, ge=1)
    """time limit; a job that reaches it continues in another job"""
    partition: str | None = undeclared(None)
    account: str | None = undeclared(None)
    qos: str | None = undeclared(None)
    options: tuple[Option, ...] = undeclared(())
    """more options of ``sbatch``, such as ``--constraint=a100``"""


_ONE_GPU = {"gpus": 1, "cpus": 8, "memory": "48G"}
_ONE_NODE = {"gpus": 8, "cpus": 64, "memory": "480G"}

SLURM_DEFAULTS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("captioner", "synthetic_captions", "teacher", "teacher_embeddings", "evaluation"), _ONE_GPU),
    **dict.fromkeys(("student", "study"), _ONE_NODE),
}
"""Defaults per stage that differ from those of :class:`SlurmStage`."""


class Slurm(Settings):
    """A Slurm cluster. The run is on a login node, or elsewhere with ``ssh``."""

    folder: LocalPath | None = undeclared(None)
    """shared folder of the logs; by default ``.slurm`` in the store"""
    setup: tuple[str, ...] = undeclared(())
    """shell lines before the worker starts, such as ``module load cuda``"""
    python: str | None = undeclared(None)
    """interpreter on the nodes; by default the one of the run"""
    ssh: str | None = undeclared(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9@._-]*$")
    """login node on which the commands of Slurm run; by default this machine"""
    gres: str = undeclared("gpu")
    """generic resource of a GPU, such as ``gpu:a100``"""
    partition: str | None = undeclared(None)
    account: str | None = undeclared(None)
    qos: str | None = undeclared(None)
    grace_seconds: int = undeclared(120, ge=10)
    """seconds before the time limit at which a training gets SIGTERM and saves a checkpoint"""
    stages: dict[Stage, dict[str, Any]] = undeclared({})

    @model_validator(mode="after")
    def _stages_are_valid(self) -> Slurm:
        for stage in self.stages:
            self.stage(stage)
        return self

    def stage(self, stage: str) -> SlurmStage:
        """Return the resources of a stage. The profile takes precedence over the defaults."""
        common = {"partition": self.partition, "account": self.account, "qos": self.qos}
        overrides = next((fields for name, fields in self.stages.items() if name == stage), {})
        return SlurmStage.model_validate({**common, **SLURM_DEFAULTS.get(stage, {}), **overrides})
