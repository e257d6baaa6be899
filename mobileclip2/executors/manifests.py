"""What is asked of Kubernetes, as plain data: pure functions from settings to manifests.

Every pod passes the *restricted* Pod Security Standard, has a read-only root file system with scratch beside it, and no token of
its service account.
"""

from __future__ import annotations

from typing import Any

from mobileclip2.config.compute import Kubernetes, Pods
from mobileclip2.engine.task import REFUSED

Manifest = dict[str, Any]

PORT = 29500
"""where the first pod of a training waits for the others"""

RETRIES = 3
"""of one chunk, evictions not counted"""

KEPT_SECONDS = 3600
"""a finished Job stays for so long where nobody deletes it, which happens when the run that made it was killed"""

USER = 10001
SCRATCH = "/scratch"
MANAGER = "mobileclip2"
JOB_LABEL = "batch.kubernetes.io/job-name"
INDEX_LABEL = "batch.kubernetes.io/job-completion-index"


def chunks_job(cluster: Kubernetes, stage: str, name: str, store: str, key: str, chunks: int) -> Manifest:
    """Describe an Indexed Job with one completion per chunk. Its ``parallelism`` may change while it runs."""
    pods = cluster.pods(stage)
    spec = {
        "completionMode": "Indexed",
        "completions": chunks,
        "parallelism": min(pods.pods, chunks),
        "backoffLimitPerIndex": RETRIES,
        "podReplacementPolicy": "Failed",  # never two pods at one chunk
        "podFailurePolicy": {
            "rules": [
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                {
                    "action": "FailJob",
                    "onExitCodes": {"containerName": "work", "operator": "In", "values": [REFUSED]},
                },
            ]
        },
    }
    command = ["python", "-m", "mobileclip2.engine.task", store, key, "--of", str(chunks)]
    return _job(cluster, pods, stage, name, spec, _pod(cluster, pods, command))


def whole_job(cluster: Kubernetes, stage: str, name: str, store: str, key: str, *, trains: bool) -> Manifest:
    """Describe a Job for work that is not divided by shards: one pod, or torchrun on the pods of the stage.

    All pods of a training live and die together: one that is lost fails the Job, which is made anew and goes on at the last
    checkpoint. A single pod that came back would wait for the others at a rendezvous that is over.
    """
    pods = cluster.pods(stage)
    nodes, processes = (pods.pods, max(1, pods.gpus)) if trains else (1, 1)
    order = ["-m", "mobileclip2.engine.task", store, key]
    if nodes * processes == 1:
        pod = _pod(cluster, pods, ["python", *order])
    else:
        rendezvous = [f"--nnodes={nodes}", f"--nproc-per-node={processes}", f"--master-port={PORT}"]
        torchrun = ["python", "-m", "torch.distributed.run", *rendezvous, f"--master-addr={name}-0.{name}", *order]
        # torchrun takes its options from PET_... too
        rank = {
            "name": "PET_NODE_RANK",
            "valueFrom": {"fieldRef": {"fieldPath": f"metadata.annotations['{INDEX_LABEL}']"}},
        }
        pod = _pod(cluster, pods, torchrun, [rank])
        pod["subdomain"] = name
    spec = {"completionMode": "Indexed", "completions": nodes, "parallelism": nodes, "backoffLimit": 0}
    return _job(cluster, pods, stage, name, spec, pod)


def rendezvous_service(cluster: Kubernetes, stage: str, name: str) -> Manifest:
    """Describe the headless Service that gives the pods of a training their names."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": cluster.namespace, "labels": _labels(stage)},
        "spec": {
            "clusterIP": "None",
            "selector": {JOB_LABEL: name},
            "publishNotReadyAddresses": True,
            "ports": [{"name": "rendezvous", "port": PORT}],
        },
    }


def _labels(stage: str) -> dict[str, str]:
    return {"app.kubernetes.io/managed-by": MANAGER, "app.kubernetes.io/component": stage}


def _job(cluster: Kubernetes, pods: Pods, stage: str, name: str, spec: Manifest, pod: Manifest) -> Manifest:
    queue = {"kueue.x-k8s.io/queue-name": cluster.queue} if cluster.queue else {}
    priority = {"kueue.x-k8s.io/priority-class": pods.priority} if cluster.queue and pods.priority else {}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": cluster.namespace, "labels": {**_labels(stage), **queue, **priority}},
        "spec": {
            **spec,
            "suspend": False,  # Kueue suspends what has its label until there is room
            "ttlSecondsAfterFinished": KEPT_SECONDS,
            "template": {"metadata": {"labels": _labels(stage)}, "spec": pod},
        },
    }


def _pod(cluster: Kubernetes, pods: Pods, command: list[str], env: list[Manifest] | None = None) -> Manifest:
    folders = {"HOME": SCRATCH, "TMPDIR": SCRATCH, "MOBILECLIP2_CACHE": f"{SCRATCH}/cache", "HF_HUB_OFFLINE": "1"}
    gpus = {cluster.gpu: pods.gpus} if pods.gpus else {}
    container: Manifest = {
        "name": "work",
        "image": cluster.image,
        "command": command,
        "env": [*({"name": name, "value": value} for name, value in {**folders, **cluster.env}.items()), *(env or [])],
        "resources": {
            "requests": {"cpu": pods.cpu, "memory": pods.memory, "ephemeral-storage": pods.disk, **gpus},
            "limits": {"memory": pods.memory, "ephemeral-storage": pods.disk, **gpus},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "scratch", "mountPath": SCRATCH},
            {"name": "shared-memory", "mountPath": "/dev/shm"},
            *({"name": _volume(claim), "mountPath": path} for claim, path in cluster.claims.items()),
        ],
    }
    if cluster.secret:
        container["envFrom"] = [{"secretRef": {"name": cluster.secret}}]
    pod: Manifest = {
        "restartPolicy": "Never",
        "serviceAccountName": cluster.service_account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [
            {"name": "scratch", "emptyDir": {"sizeLimit": pods.disk}},
            {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": pods.shared_memory}},
            *({"name": _volume(claim), "persistentVolumeClaim": {"claimName": claim}} for claim in cluster.claims),
        ],
    }
    if pods.node_selector:
        pod["nodeSelector"] = dict(pods.node_selector)
    if pods.tolerations:
        pod["tolerations"] = [toleration.model_dump(exclude_none=True) for toleration in pods.tolerations]
    if pods.priority:
        pod["priorityClassName"] = pods.priority
    return pod


def _volume(claim: str) -> str:
    return f"claim-{claim}"
