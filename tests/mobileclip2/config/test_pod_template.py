"""Pod templates merge as in Kubernetes. A field that the pipeline sets is rejected, and the error names it."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from mobileclip2.config.compute import Kubernetes
from mobileclip2.config.pod_template import merge

WORK = {"name": "work"}


def work(**fields: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{**WORK, **fields}]}}


def test_lists_merge_by_name_and_null_removes() -> None:
    base = {"spec": {"volumes": [{"name": "a", "emptyDir": {}}, {"name": "b", "emptyDir": {}}], "dnsPolicy": "Default"}}
    over = {"spec": {"volumes": [{"name": "b", "emptyDir": {"medium": "Memory"}}, {"name": "c"}], "dnsPolicy": None}}
    assert merge(base, over) == {
        "spec": {
            "volumes": [{"name": "a", "emptyDir": {}}, {"name": "b", "emptyDir": {"medium": "Memory"}}, {"name": "c"}]
        }
    }
    assert merge({"tolerations": [1]}, {"tolerations": [2]}) == {"tolerations": [1, 2]}
    assert merge({"args": [1]}, {"args": [2]}) == {"args": [2]}


def test_null_resources_are_absent() -> None:
    settings = Kubernetes(image="i", pod_template=work(resources={"requests": None}))
    assert settings.template("student") == work(resources={})


def test_a_stage_merges_over_the_cluster() -> None:
    settings = Kubernetes(
        image="i",
        pod_template={"metadata": {"labels": {"team": "a", "cost": "1"}}, "spec": {"schedulerName": "volcano"}},
        stages={"student": {"pod_template": {"metadata": {"labels": {"cost": "2"}}, "spec": {"schedulerName": None}}}},
    )
    assert settings.template("student") == {"metadata": {"labels": {"team": "a", "cost": "2"}}, "spec": {}}
    assert settings.template("teacher")["spec"] == {"schedulerName": "volcano"}


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ({"spce": {}}, "unknown field 'spce'; known are metadata, spec"),
        ({"metadata": {"name": "a"}}, "unknown field 'metadata.name'"),
        ({"metadata": {"labels": {"a": 1}}}, "'metadata.labels.a' must be a string; put it in quotes"),
        ({"metadata": {"labels": {"app.kubernetes.io/component": "x"}}}, "the pipeline sets the label"),
        ({"metadata": {"labels": {"kueue.x-k8s.io/queue-name": "x"}}}, "the pipeline sets the label"),
        ({"spec": []}, "'spec' must be a mapping"),
        ({"spec": {"restartPolicy": "Always"}}, "the pipeline sets 'spec.restartPolicy'; remove it"),
        ({"spec": {"hostNetwork": True}}, "the pipeline sets 'spec.hostNetwork'"),
        ({"spec": {"securityContext": {"runAsUser": 0}}}, "the pipeline sets 'spec.securityContext.runAsUser'"),
        ({"spec": {"serviceAccountName": "a"}}, "set compute.kubernetes.service_account instead"),
        ({"spec": {"terminationGracePeriodSeconds": "2m"}}, "must be a number of seconds"),
        ({"spec": {"terminationGracePeriodSeconds": True}}, "must be a number of seconds"),
        (
            {"spec": {"volumes": [{"emptyDir": {}}]}},
            "'spec.volumes' must be a list of mappings, each with a string 'name'",
        ),
        ({"spec": {"volumes": [{"name": 5}]}}, "'spec.volumes' must be a list of mappings, each with a string 'name'"),
        (work(env=[{"name": "A", "value": 0}]), "'spec.containers.work.env.A' must be a string; put it in quotes"),
        (work(env=[{"name": 5, "value": "x"}]), "'spec.containers.work.env' must be a list of mappings"),
        (work(volumeMounts=[{"name": "v", "mountPath": 5}]), "each with a string 'mountPath'"),
        ({"spec": {"volumes": [{"name": "scratch"}]}}, "the pipeline sets the volume 'scratch'"),
        ({"spec": {"volumes": [{"name": "a", "hostPath": {"path": "/"}}]}}, "the volume 'a' is a hostPath"),
        ({"spec": {"containers": [{"name": "sidecar"}]}}, "'containers' accepts only 'work'"),
        ({"spec": {"initContainers": [WORK]}}, "'containers' accepts only 'work'"),
        (work(command=["sh"]), "the pipeline sets 'spec.containers.work.command'"),
        (work(image="x"), "set compute.kubernetes.image instead"),
        (work(securityContext={"privileged": True}), "spec.containers.work.securityContext.privileged"),
        (work(securityContext={"readOnlyRootFilesystem": False}), "securityContext.readOnlyRootFilesystem"),
        (work(env=[{"name": "HOME", "value": "/"}]), "the pipeline sets the environment variable 'HOME'"),
        (work(volumeMounts=[{"name": "a", "mountPath": "/dev/shm/"}]), "the pipeline mounts a volume at '/dev/shm/'"),
        (work(volumeMounts=[{"name": "a", "mountPath": "/data"}]), "'claims' mounts a volume at '/data' too"),
        (work(resources={"limits": {"memory": "1Gi"}}), "sets 'memory'; set memory of the stage instead"),
        (work(resources={"limits": {"nvidia.com/gpu": 1}}), "requests 'nvidia.com/gpu'; set gpus of the stage instead"),
    ],
)
@pytest.mark.parametrize("by_stage", [False, True])
def test_invalid_and_reserved_template_fields_are_refused(
    template: dict[str, Any], message: str, by_stage: bool
) -> None:
    fields = {"stages": {"student": {"pod_template": template}}} if by_stage else {"pod_template": template}
    with pytest.raises(ValidationError) as caught:
        Kubernetes(image="i", claims={"shards": "/data"}, **fields)
    assert message in str(caught.value)
