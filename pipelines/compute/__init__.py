"""Where the work of stages is done: on this machine or in a cluster, as the profile says. The stages do not know."""

from __future__ import annotations

from mobileclip2.pipeline import Compute
from mobileclip2.profile import Profile
from pipelines.compute.local import Local


def compute_of(profile: Profile) -> Compute:
    """Return the compute backend that a profile asks for."""
    if profile.compute.kubernetes is None:
        return Local(profile.compute.processes)
    from pipelines.compute.kubernetes import connect  # its client takes a second to load

    return connect(profile.compute.kubernetes)
