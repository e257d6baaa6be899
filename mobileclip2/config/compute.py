"""What a profile says about where stages are computed. Nothing in here changes what is computed."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mobileclip2.fingerprint import UNDECLARED

Stage = Literal[
    "raw_shards",
    "augmentations",
    "caption_corpus",
    "captioner",
    "synthetic_captions",
    "teacher",
    "teacher_embeddings",
    "reinforced_dataset",
    "student",
    "study",
    "evaluation",
]


def _undeclared(default: Any = ..., **limits: Any) -> Any:
    return Field(default, json_schema_extra=UNDECLARED, **limits)


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Toleration(_Settings):
    """Kubernetes' own: lets a pod onto nodes with this taint."""

    key: str | None = _undeclared(None)
    operator: Literal["Exists", "Equal"] = _undeclared("Exists")
    value: str | None = _undeclared(None)
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = _undeclared(None)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.operator == "Equal") != (self.value is not None):
            raise ValueError("'value' goes with 'operator: Equal', and only with it")
        return self


class Pods(_Settings):
    """What the pods of one stage are and ask for."""

    pods: int = _undeclared(4, ge=1)
    """at once where shards are shared out; nodes where a model is trained"""
    gpus: int = _undeclared(0, ge=0)
    """of each pod"""
    cpu: str = _undeclared("2")
    memory: str = _undeclared("8Gi")
    shared_memory: str = _undeclared("1Gi")
    disk: str = _undeclared("20Gi")
    """scratch on the node"""
    node_selector: dict[str, str] = _undeclared({})
    tolerations: tuple[Toleration, ...] = _undeclared(())
    priority: str | None = _undeclared(None)
    """name of a PriorityClass"""


_ONE_GPU = {"gpus": 1, "cpu": "8", "memory": "48Gi", "shared_memory": "8Gi", "disk": "100Gi"}
_ONE_NODE = {"pods": 1, "gpus": 8, "cpu": "64", "memory": "512Gi", "shared_memory": "64Gi", "disk": "500Gi"}

SANE: dict[str, dict[str, Any]] = {
    "captioner": {**_ONE_GPU, "pods": 1},
    "synthetic_captions": {**_ONE_GPU, "pods": 8},
    "teacher": {**_ONE_GPU, "pods": 1},
    "teacher_embeddings": {**_ONE_GPU, "pods": 8},
    "student": _ONE_NODE,
    "study": _ONE_NODE,
    "evaluation": {**_ONE_GPU, "pods": 1},
    "caption_corpus": {"pods": 1},
}
"""Defaults of stages that ask for other than the defaults of :class:`Pods`."""


class Kubernetes(_Settings):
    """A cluster that the work of every stage goes to."""

    image: str = _undeclared()
    """of the workers, the same build as the run's"""
    namespace: str = _undeclared("mobileclip2")
    service_account: str = _undeclared("mobileclip2-work")
    """gives pods their identity at the object store; it needs no right in the cluster"""
    queue: str | None = _undeclared(None)
    """name of a Kueue LocalQueue"""
    gpu: str = _undeclared("nvidia.com/gpu")
    """resource that stands for one GPU"""
    claims: dict[str, str] = _undeclared({})
    """PersistentVolumeClaim -> path where every worker sees it"""
    env: dict[str, str] = _undeclared({})
    """of the workers; no secret belongs in here"""
    secret: str | None = _undeclared(None)
    """name of a Secret that becomes environment of the workers, where pods have no identity of their own"""
    start_minutes: float = _undeclared(30.0, gt=0)
    """patience while no pod of a Job can start"""
    stages: dict[Stage, dict[str, Any]] = _undeclared({})

    @model_validator(mode="after")
    def _known(self) -> Self:
        for stage in self.stages:
            self.pods(stage)
        return self

    def pods(self, stage: str) -> Pods:
        """Return the pod settings of a stage: those of the profile over the defaults."""
        stated = next((fields for name, fields in self.stages.items() if name == stage), {})
        return Pods.model_validate({**SANE.get(stage, {}), **stated})


class ComputeSettings(_Settings):
    """Where stages are computed: in this process, in several on this machine, or in a cluster."""

    processes: int = _undeclared(1, ge=1)
    """on this machine: chunks of a group at once, and torchrun's processes in training"""
    kubernetes: Kubernetes | None = _undeclared(None)
