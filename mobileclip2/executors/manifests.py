"""Build Kubernetes manifests from the settings of a profile.

Every pod meets the *restricted* Pod Security Standard. Its root file system is read-only and it has a scratch volume. The token
of its service account is not mounted.
"""

from __future__ import annotations

from typing import Any

from mobileclip2.config.compute import Kubernetes, Pods
from mobileclip2.config.pod_template import WORK, merge
from mobileclip2.executors.commands import ON_THIS_MACHINE, pod_command, torchrun_command, worker_command
from mobileclip2.executors.messages import PERMANENT

Manifest = dict[str, Any]

PORT = 29500
"""rendezvous port of the first pod of a training"""

RETRIES = 3
"""retries of one chunk; evictions do not count"""

JOB_TTL_SECONDS = 3600
"""lifetime of a failed Job, and of a finished Job whose run was killed and did not delete it"""

TRAINING_GRACE_SECONDS = 120
"""default time between the eviction and the kill of a training's pod, in which it writes a checkpoint"""

LINGER_SECONDS = 60
"""time that the other pods of a training wait after a failure, so that its Job records the eviction that caused it"""

USER = 10001
SCRATCH = "/scratch"
JOBSET_JOB = "node"
"""name of the Job in a JobSet"""
UID_LABEL = "batch.kubernetes.io/controller-uid"
INDEX_LABEL = "batch.kubernetes.io/job-completion-index"
RESTRICTED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
"""security context of a container that the *restricted* standard requires"""


def chunks_job(cluster: Kubernetes, stage: str, name: str, store: str, key: str, chunks: int) -> Manifest:
    """Describe an Indexed Job with one completion per chunk. Its ``parallelism`` may change while it runs."""
    pods = cluster.pods(stage)
    spec = {
        "completionMode": "Indexed",
        "completions": chunks,
        "parallelism": min(pods.pods, chunks),
        "backoffLimitPerIndex": RETRIES,
        **_failure_policy("Ignore"),
    }
    command = pod_command([*worker_command("python", store, key), "--of", str(chunks)], store, name)
    return _job(cluster, pods, stage, name, spec, _pod(cluster, pods, command))


def unsharded_job(cluster: Kubernetes, stage: str, name: str, store: str, key: str, *, trains: bool) -> Manifest:
    """Describe a Job for a batch without shards: one pod, or torchrun on all pods of the stage.

    A lost pod of a training fails the whole Job, because a restarted pod would wait at a rendezvous that has ended. The executor
    then creates the Job again, and the training continues from its last checkpoint. The reason of the failed Job shows
    whether a disruption or the pod itself ended it.
    """
    pods = cluster.pods(stage)
    nodes, processes = (pods.pods, max(1, pods.gpus)) if trains else (1, 1)
    grace = (cluster.template(stage).get("spec") or {}).get("terminationGracePeriodSeconds", TRAINING_GRACE_SECONDS)
    shutdown = [f"--shutdown-timeout={grace}"]
    worker = worker_command("python", store, key)
    if nodes * processes == 1:
        pod = _pod(cluster, pods, pod_command(worker, store, name))
    elif nodes == 1:  # without the Service of a training on several nodes, so nothing else reaches the ranks
        command = torchrun_command(worker, processes, [*ON_THIS_MACHINE, *shutdown])
        pod = _pod(cluster, pods, pod_command(command, store, name))
    else:
        first = f"{name}-{JOBSET_JOB}-0-0.{name}" if cluster.jobset else f"{name}-0.{name}"
        rendezvous = [f"--nnodes={nodes}", f"--master-port={PORT}", f"--master-addr={first}", *shutdown]
        # torchrun also reads its options from PET_ variables
        command = torchrun_command(worker, processes, rendezvous)
        index = {"fieldRef": {"fieldPath": f"metadata.annotations['{INDEX_LABEL}']"}}
        pod = _pod(cluster, pods, pod_command(command, store, name, LINGER_SECONDS))
        pod["containers"][0]["env"].append({"name": "PET_NODE_RANK", "valueFrom": index})
        pod["subdomain"] = name  # a JobSet would set it too
    if trains:
        pod["terminationGracePeriodSeconds"] = grace
    spec = {
        "completionMode": "Indexed",
        "completions": nodes,
        "parallelism": nodes,
        "backoffLimit": 0,
        **_failure_policy("FailJob"),
    }
    return _job(cluster, pods, stage, name, spec, pod)


def training_jobset(job: Manifest, restarts: int) -> Manifest:
    """Wrap the Job of a training on several nodes in a JobSet, whose controller creates it again after failures and disruptions.

    Restarts after disruptions do not count.
    """
    spec = {field: value for field, value in job["spec"].items() if field not in {"suspend", "ttlSecondsAfterFinished"}}
    rules = [
        {
            "name": "disrupted",
            "action": "RestartJobSetAndIgnoreMaxRestarts",
            "onJobFailureReasons": ["PodFailurePolicy"],
            "onJobFailureMessagePatterns": ["DisruptionTarget"],
        },
        {"name": "permanent", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]},
    ]
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": job["metadata"],
        "spec": {
            "suspend": False,
            "ttlSecondsAfterFinished": JOB_TTL_SECONDS,
            "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
            # the ranks of the earlier attempt would answer to the names of the next
            "failurePolicy": {"maxRestarts": restarts, "restartStrategy": "BlockingRecreate", "rules": rules},
            "replicatedJobs": [{"name": JOBSET_JOB, "replicas": 1, "template": {"spec": spec}}],
        },
    }


def rendezvous_service(cluster: Kubernetes, stage: str, name: str, uid: str) -> Manifest:
    """Describe the headless Service that gives the pods of a training their DNS names.

    The Job with ``uid`` owns it. It does not select the pods of an earlier Job of this name, which may still terminate.
    """
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": uid}
    metadata = {"name": name, "namespace": cluster.namespace, "labels": _labels(stage), "ownerReferences": [owner]}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {
            "clusterIP": "None",
            "selector": {UID_LABEL: uid},
            "publishNotReadyAddresses": True,
            "ports": [{"name": "rendezvous", "port": PORT}],
        },
    }


def _failure_policy(disruption: str) -> Manifest:
    """Return the fields of a Job that end it at a permanent error, and take the action ``disruption`` at a lost pod."""
    return {
        "podReplacementPolicy": "Failed",  # podFailurePolicy requires it
        "podFailurePolicy": {
            "rules": [
                {"action": disruption, "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                {
                    "action": "FailJob",
                    "onExitCodes": {"containerName": WORK, "operator": "In", "values": [PERMANENT]},
                },
            ]
        },
    }


def _labels(stage: str) -> dict[str, str]:
    return {"app.kubernetes.io/managed-by": "mobileclip2", "app.kubernetes.io/component": stage}


def _job(cluster: Kubernetes, pods: Pods, stage: str, name: str, spec: Manifest, pod: Manifest) -> Manifest:
    template = merge(cluster.template(stage), {"metadata": {"labels": _labels(stage)}, "spec": pod})
    if containers := template["spec"].get("initContainers"):
        template["spec"]["initContainers"] = [
            {**each, "securityContext": {**each.get("securityContext", {}), **RESTRICTED}} for each in containers
        ]
    labels = {**template["metadata"]["labels"]}
    annotations = {**template["metadata"].get("annotations", {})}
    if cluster.queue:
        labels["kueue.x-k8s.io/queue-name"] = cluster.queue
        if pods.queue_priority:
            labels["kueue.x-k8s.io/priority-class"] = pods.queue_priority
        # Kueue refuses a minimum that is not below parallelism, and a training needs all of its pods
        if "backoffLimitPerIndex" in spec and pods.min_pods and pods.min_pods < spec["parallelism"]:
            annotations["kueue.x-k8s.io/job-min-parallelism"] = str(pods.min_pods)
    metadata: Manifest = {"name": name, "namespace": cluster.namespace, "labels": labels}
    if annotations:
        metadata["annotations"] = annotations
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            **spec,
            "suspend": False,  # Kueue suspends labeled Jobs until it admits them
            "ttlSecondsAfterFinished": JOB_TTL_SECONDS,
            "template": template,
        },
    }


def _pod(cluster: Kubernetes, pods: Pods, command: list[str]) -> Manifest:
    folders = {"HOME": SCRATCH, "TMPDIR": SCRATCH, "MOBILECLIP2_CACHE": f"{SCRATCH}/cache", "HF_HUB_OFFLINE": "1"}
    gpus = {cluster.gpu: pods.gpus} if pods.gpus else {}
    container: Manifest = {
        "name": WORK,
        "image": cluster.image,
        "command": command,
        "env": [
            *({"name": name, "value": value} for name, value in {**folders, **cluster.env}.items()),
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        ],
        "resources": {
            "requests": {"cpu": pods.cpu, "memory": pods.memory, "ephemeral-storage": pods.disk, **gpus},
            "limits": {"memory": pods.memory, "ephemeral-storage": pods.disk, **gpus},
        },
        "securityContext": {**RESTRICTED, "readOnlyRootFilesystem": True},
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
