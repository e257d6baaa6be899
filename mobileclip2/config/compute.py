"""The ``compute`` section of a profile: where stages run. These settings do not change any output."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import model_validator

from mobileclip2.config.pod_template import WORK, PodTemplate, merge
from mobileclip2.config.settings import Settings, Stage, Text, undeclared
from mobileclip2.config.slurm import Slurm

MAX_MINUTES = 1e6
"""about two years"""


class Toleration(Settings):
    """A Kubernetes toleration: pods may run on nodes with a matching taint."""

    key: str | None = undeclared(None)
    operator: Literal["Exists", "Equal"] = undeclared("Exists")
    value: str | None = undeclared(None)
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = undeclared(None)

    @model_validator(mode="after")
    def _value_matches_operator(self) -> Self:
        if (self.operator == "Equal") != (self.value is not None):
            raise ValueError("'operator: Equal' needs 'value', and 'operator: Exists' does not accept it")
        return self


class Pods(Settings):
    """Number and resource requests of the pods of one stage."""

    pods: int = undeclared(4, ge=1)
    """number of parallel pods of a shard stage, or number of nodes of a training"""
    gpus: int = undeclared(0, ge=0)
    """GPUs per pod"""
    cpu: str = undeclared("2")
    memory: str = undeclared("8Gi")
    shared_memory: str = undeclared("1Gi")
    disk: str = undeclared("20Gi")
    """ephemeral storage of the node"""
    node_selector: dict[str, str] = undeclared({})
    tolerations: tuple[Toleration, ...] = undeclared(())
    priority: str | None = undeclared(None)
    """name of a PriorityClass"""
    queue_priority: str | None = undeclared(None)
    """name of a WorkloadPriorityClass of Kueue; without it, Kueue orders Jobs by ``priority``"""
    min_pods: int | None = undeclared(None, ge=1)
    """fewest pods with which Kueue may start a shard stage; without it, Kueue waits for quota for all of them"""
    pod_template: PodTemplate = undeclared({}, repr=False)
    """merges over the ``pod_template`` of the cluster"""


_ONE_GPU = {"pods": 1, "gpus": 1, "cpu": "8", "memory": "48Gi", "shared_memory": "8Gi", "disk": "100Gi"}
_EIGHT_PODS = {**_ONE_GPU, "pods": 8}
_ONE_NODE = {"pods": 1, "gpus": 8, "cpu": "64", "memory": "512Gi", "shared_memory": "64Gi", "disk": "500Gi"}

SANE: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("captioner", "teacher", "selection", "evaluation"), _ONE_GPU),
    **dict.fromkeys(("synthetic_captions", "filter_scores", "teacher_embeddings"), _EIGHT_PODS),
    **dict.fromkeys(("student", "study"), _ONE_NODE),
    "caption_corpus": {"pods": 1},
}
"""Defaults per stage that differ from those of :class:`Pods`."""


class Kubernetes(Settings):
    """A Kubernetes cluster that runs every stage."""

    image: Text = undeclared()
    """container image of the workers; it must be the same build as that of the run"""
    namespace: str = undeclared("mobileclip2")
    service_account: str = undeclared("mobileclip2-work")
    """service account that gives pods access to the object store; it needs no permissions in the cluster"""
    queue: str | None = undeclared(None)
    """name of a Kueue LocalQueue"""
    jobset: bool = undeclared(False)
    """run trainings on several nodes as JobSets, which their controller restarts; it must be installed"""
    gpu: str = undeclared("nvidia.com/gpu")
    """resource name of one GPU"""
    claims: dict[str, str] = undeclared({})
    """mount path of each PersistentVolumeClaim in every worker"""
    env: dict[str, str] = undeclared({}, repr=False)
    """environment variables of the workers; do not put secrets here"""
    secret: str | None = undeclared(None)
    """name of a Secret that becomes environment variables of the workers, for pods without an identity of their own"""
    start_minutes: float = undeclared(30.0, gt=0, le=MAX_MINUTES)
    """time limit in minutes for the first pod of a Job to start"""
    pod_template: PodTemplate = undeclared({}, repr=False)
    """``metadata`` and ``spec`` of a pod, which merge under what the pipeline sets"""
    stages: dict[Stage, dict[str, Any]] = undeclared({}, repr=False)

    @model_validator(mode="after")
    def _stages_are_valid(self) -> Self:
        for stage, pods in [(stage, self.pods(stage)) for stage in self.stages]:
            if not self.queue and (pods.queue_priority or pods.min_pods):
                raise ValueError(f"stages.{stage}: 'queue_priority' and 'min_pods' are for Kueue; set 'queue'")
            if pods.min_pods and pods.min_pods > pods.pods:
                raise ValueError(f"stages.{stage}: 'min_pods' is {pods.min_pods}, but 'pods' is only {pods.pods}")
            self._check_conflicts(pods.pod_template)
        self._check_conflicts(self.pod_template)
        return self

    def _check_conflicts(self, template: dict[str, Any]) -> None:
        for container in (template.get("spec") or {}).get("containers") or []:
            for amounts in (container.get("resources") or {}).values():
                if self.gpu in (amounts or ()):
                    raise ValueError(f"pod_template: '{WORK}' requests '{self.gpu}'; set gpus of the stage instead")
            for mount in container.get("volumeMounts") or []:
                if mount["mountPath"] in self.claims.values():
                    raise ValueError(f"pod_template: 'claims' mounts a volume at '{mount['mountPath']}' too")

    def pods(self, stage: str) -> Pods:
        """Return the pod settings of a stage. The profile takes precedence over the defaults."""
        overrides = next((fields for name, fields in self.stages.items() if name == stage), {})
        return Pods.model_validate({**SANE.get(stage, {}), **overrides})

    def template(self, stage: str) -> dict[str, Any]:
        """Return the pod template of a stage: its own, merged over the one of the cluster."""
        return merge(merge({}, self.pod_template), self.pods(stage).pod_template)


class Metrics(Settings):
    """Where a run serves the metrics of its tasks on a cluster, for Prometheus."""

    port: int = undeclared(9464, ge=1, le=65535)
    host: str = undeclared("127.0.0.1")
    """address to bind; ``0.0.0.0`` in a pod, whose port a network policy protects"""


class ComputeSettings(Settings):
    """Where stages run: in this process, in several local processes, or in a cluster."""

    processes: int = undeclared(1, ge=1)
    """number of local processes: parallel chunks of a partition, and torchrun processes of a training"""
    collective_minutes: float = undeclared(120.0, gt=0, le=MAX_MINUTES)
    """longest time that the processes of a training wait for each other, as for an evaluation of the first one"""
    kubernetes: Kubernetes | None = undeclared(None)
    slurm: Slurm | None = undeclared(None)
    metrics: Metrics | None = undeclared(None)

    @model_validator(mode="after")
    def _one_cluster(self) -> Self:
        if self.kubernetes and self.slurm:
            raise ValueError("'kubernetes' and 'slurm' are both given; stages run in one of them, so remove the other")
        if self.metrics and not (self.kubernetes or self.slurm):
            raise ValueError("'metrics' are those of tasks on a cluster; set 'kubernetes' or 'slurm', or remove it")
        return self
