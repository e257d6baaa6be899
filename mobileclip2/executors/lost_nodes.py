"""Find the pods of a Job whose node does not answer.

Kubernetes never removes such a pod by itself, because its processes may still run: it stays ``Terminating``. A pod names its
node, so access to nodes is not needed.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

SLACK_SECONDS = 60.0
"""time after its grace period at which a pod that still exists counts as overdue"""

TAINT = "kubectl taint nodes {node} node.kubernetes.io/out-of-service=nodeshutdown:NoExecute"


@dataclass(frozen=True)
class LostPod:
    """A pod on a node that does not answer."""

    pod: str
    node: str
    overdue: bool
    """whether the pod was evicted and should have ended by now"""


class NodeWatch:
    """Follows the pods of a Job over time. The clocks of this machine and of the cluster need not agree."""

    def __init__(self) -> None:
        self._terminating_since: dict[str, float] = {}
        self._silent: set[str] = set()

    def lost(self, pods: Iterable[Any]) -> list[LostPod]:
        """Return the pods whose node does not answer, from a list of ``V1Pod``."""
        now, lost = time.monotonic(), []
        for pod in pods:
            if pod.status.phase in {"Succeeded", "Failed"} or not pod.spec.node_name:
                continue
            uid, overdue = pod.metadata.uid, False
            if pod.metadata.deletion_timestamp:  # a pod that ends normally may be not ready too
                since = self._terminating_since.setdefault(uid, now)
                overdue = now - since > (pod.metadata.deletion_grace_period_seconds or 0) + SLACK_SECONDS
            elif _is_silent(pod):
                self._silent.add(uid)
            else:
                self._silent.discard(uid)
            if overdue or uid in self._silent:
                lost.append(LostPod(pod.metadata.name, pod.spec.node_name, overdue))
        return lost


def explain_lost(lost: Iterable[LostPod]) -> str:
    """Return which nodes do not answer and what to do."""
    nodes = sorted({pod.node for pod in lost})
    names = ", ".join(sorted(pod.pod for pod in lost))
    taints = "; ".join(TAINT.format(node=node) for node in nodes)
    return (
        f"no answer from node {', '.join(nodes)} with the pods {names}. Kubernetes keeps them until it answers or is deleted. "
        f"If it is switched off, run: {taints}"
    )


def _is_silent(pod: Any) -> bool:
    """Return whether the control plane has set a pod to not ready although its container runs: its node sends no status."""
    containers = pod.status.container_statuses or []
    ready = [condition.status for condition in pod.status.conditions or [] if condition.type == "Ready"]
    return bool(containers) and all(each.ready for each in containers) and ready == ["False"]
