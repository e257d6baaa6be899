"""Build Kubernetes manifests from the settings of a profile.

Every pod meets the *restricted* Pod Security Standard. Its root file system is read-only and it has a scratch volume. The token
of its service account is not mounted.
"""

from __future__ import annotations

from typing import Any

from mobileclip2.config.compute import Kubernetes, Pods
from mobileclip2.executors.commands import ON_THIS_MACHINE, torchrun_command, worker_command
from mobileclip2.executors.messages import PERMANENT

Manifest = dict[str, Any]

PORT = 29500
"""rendezvous port of the first pod of a training"""

RETRIES = 3
"""retries of one chunk; evictions do not count"""

JOB_TTL_SECONDS = 3600
"""lifetime of a finished Job; applies if its run was killed and did not delete it"""

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
        "podReplacementPolicy": "Failed",  # two pods must never compute the same chunk
        "podFailurePolicy": {
            "rules": [
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                {
                    "action": "FailJob",
                    "onExitCodes": {"containerName": "work", "operator": "In", "values": [PERMANENT]},
                },
            ]
        },
    }
    command = [*worker_command("python", store, key), "--of", str(chunks)]
    return _job(cluster, pods, stage, name, spec, _pod(cluster, pods, command))


def unsharded_job(cluster: Kubernetes, stage: str, name: str, store: str, key: str, *, trains: bool) -> Manifest:
    """Describe a Job for a batch without shards: one pod, or torchrun on all pods of the stage.

    A lost pod of a training fails the whole Job, because a restarted pod would wait at a rendezvous that has ended. The executor
    then creates the Job again, and the training continues from its last checkpoint.
    """
    pods = cluster.pods(stage)
    nodes, processes = (pods.pods, max(1, pods.gpus)) if trains else (1, 1)
    if nodes * processes == 1:
        pod = _pod(cluster, pods, worker_command("python", store, key))
    elif nodes == 1:  # without the Service of a training on several nodes, so nothing else reaches the ranks
        pod = _pod(cluster, pods, torchrun_command("python", store, key, processes, ON_THIS_MACHINE))
    else:
        rendezvous = [f"--nnodes={nodes}", f"--master-port={PORT}", f"--master-addr={name}-0.{name}"]
        # torchrun also reads its options from PET_ variables
        rank = {
            "name": "PET_NODE_RANK",
            "valueFrom": {"fieldRef": {"fieldPath": f"metadata.annotations['{INDEX_LABEL}']"}},
        }
        pod = _pod(cluster, pods, torchrun_command("python", store, key, processes, rendezvous), [rank])
        pod["subdomain"] = name
    spec = {"completionMode": "Indexed", "completions": nodes, "parallelism": nodes, "backoffLimit": 0}
    return _job(cluster, pods, stage, name, spec, pod)


def rendezvous_service(cluster: Kubernetes, stage: str, name: str) -> Manifest:
    """Describe the headless Service that gives the pods of a training their DNS names."""
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
            "suspend": False,  # Kueue suspends labeled Jobs until it admits them
            "ttlSecondsAfterFinished": JOB_TTL_SECONDS,
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
