"""Executors: run task batches on this machine or on a cluster."""

from __future__ import annotations

from mobileclip2.config.profile import Profile
from mobileclip2.engine.pipeline import Executor
from mobileclip2.executors.local import LocalExecutor
from mobileclip2.executors.slurm import SlurmExecutor


def executor_of(profile: Profile) -> Executor:
    """Return the executor that the profile configures."""
    if profile.compute.slurm:
        return SlurmExecutor(profile.compute.slurm)
    if profile.compute.kubernetes is None:
        return LocalExecutor(profile.compute.processes)
    from mobileclip2.executors.kubernetes import KubernetesExecutor  # importing its client takes a second

    return KubernetesExecutor(profile.compute.kubernetes)
