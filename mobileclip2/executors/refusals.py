"""Read why the API server refuses to create the pods of a Job."""

from __future__ import annotations

import re

from mobileclip2.extras import needs

with needs("k8s"):
    from kubernetes.utils.quantity import parse_quantity

_TEMPORARY = re.compile(
    r"failed calling webhook|timeout|timed out|deadline exceeded|connection refused|internal error|etcdserver"
    r"|object has been modified|try again|too many requests",
    re.I,
)
_QUOTA = re.compile(r"exceeded quota: .*requested: (?P<requested>\S+), used: \S+, limited: (?P<limited>\S+)")


def is_final(message: str, pods: int) -> bool:
    """Return whether the API server will refuse the pods again until somebody changes the request or the namespace.

    A quota that other Jobs use up now is not final.

    Args:
        message: of a ``FailedCreate`` event.
        pods: number of pods that must fit at once.
    """
    if quota := _QUOTA.search(message):
        requested, limited = _amounts(quota["requested"]), _amounts(quota["limited"])
        return any(pods * amount > limited.get(resource, amount) for resource, amount in requested.items())
    return not _TEMPORARY.search(message)


def _amounts(text: str) -> dict[str, float]:
    pairs = (pair.partition("=") for pair in text.split(","))
    return {resource: float(parse_quantity(amount)) for resource, _, amount in pairs}
