"""Executors: run task batches on this machine or on a cluster."""

from __future__ import annotations

from mobileclip2.config.profile import Profile
from mobileclip2.engine.pipeline import Executor


def executor_of(profile: Profile) -> Executor:
    """Return the executor that the profile configures."""
    # loading Dagster's definitions imports this package, and the executors import pyarrow and clients of clusters
    if profile.compute.slurm:
        from mobileclip2.executors.slurm import SlurmExecutor

        return SlurmExecutor(profile.compute.slurm)
    if profile.compute.kubernetes is None:
        from mobileclip2.executors.local import LocalExecutor

        return LocalExecutor(profile.compute.processes)
    from mobileclip2.executors.kubernetes import KubernetesExecutor

    return KubernetesExecutor(profile.compute.kubernetes)
