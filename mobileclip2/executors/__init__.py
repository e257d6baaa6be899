"""Where the work of stages is done: on this machine or in a cluster, as the profile says. The stages do not know."""

from __future__ import annotations

from mobileclip2.config.profile import Profile
from mobileclip2.engine.pipeline import Executor
from mobileclip2.executors.local import LocalExecutor


def executor_of(profile: Profile) -> Executor:
    """Return the compute backend that a profile asks for."""
    if profile.compute.kubernetes is None:
        return LocalExecutor(profile.compute.processes)
    from mobileclip2.executors.kubernetes import connect  # its client takes a second to load

    return connect(profile.compute.kubernetes)
