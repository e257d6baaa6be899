"""Manifests match the schemas of Kubernetes and give pods minimal permissions."""

from typing import get_args

import kubernetes_validate
import pytest
from pydantic import ValidationError

from mobileclip2.config.compute import SANE, Kubernetes, Pods
from mobileclip2.config.settings import Stage
from mobileclip2.engine.graph import CODE_VERSIONS
from mobileclip2.executors.commands import ON_THIS_MACHINE
from mobileclip2.executors.manifests import chunks_job, rendezvous_service, training_jobset, unsharded_job
from mobileclip2.executors.messages import PERMANENT
from tests.cluster import check_job, check_jobset

VERSIONS = ("1.33", "1.34", "1.35", "1.36", "1.37")

SETTINGS = Kubernetes(
    image="registry.example/mobileclip2:abc",
    queue="gpus",
    claims={"shards": "/data"},
    env={"AWS_ENDPOINT_URL": "http://minio:9000"},
    secret="object-store",
    stages={
        "teacher_embeddings": {
            "pods": 6,
            "gpus": 1,
            "shared_memory": "3Gi",
            "node_selector": {"gpu": "h100"},
            "tolerations": [{"key": "nvidia.com/gpu"}, {"key": "spot", "operator": "Equal", "value": "yes"}],
            "priority": "low",
            "queue_priority": "batch",
            "min_pods": 2,
        },
        "student": {"pods": 2, "gpus": 8},
    },
)
PLAIN = Kubernetes(image="registry.example/mobileclip2:abc")
SIDECAR = {"name": "proxy", "image": "registry.example/proxy:1", "restartPolicy": "Always"}
TEMPLATE = {
    "metadata": {"labels": {"team": "vision"}, "annotations": {"kueue.x-k8s.io/elastic-job": "true"}},
    "spec": {
        "schedulerName": "volcano",
        "runtimeClassName": "nvidia",
        "imagePullSecrets": [{"name": "registry"}],
        "tolerations": [{"operator": "Exists", "key": "training"}],
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}]
                }
            }
        },
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {}}
        ],
        "terminationGracePeriodSeconds": 300,
        "securityContext": {"supplementalGroups": [2000]},
        "initContainers": [SIDECAR],
        "volumes": [{"name": "topology", "configMap": {"name": "nccl"}}],
        "containers": [
            {
                "name": "work",
                "env": [{"name": "NCCL_DEBUG", "value": "INFO"}, {"name": "AWS_ENDPOINT_URL", "value": "lower"}],
                "envFrom": [{"configMapRef": {"name": "nccl"}}],
                "resources": {"limits": {"vpc.amazonaws.com/efa": 4, "hugepages-2Mi": "5120Mi"}},
                "volumeMounts": [{"name": "topology", "mountPath": "/etc/nccl", "readOnly": True}],
            }
        ],
    },
}
PLATFORM = Kubernetes.model_validate({**SETTINGS.model_dump(exclude_unset=True), "pod_template": TEMPLATE})


def chunks(settings=SETTINGS, stage="teacher_embeddings", count=40):
    return chunks_job(settings, stage, "job-0123", "s3://bucket/store", ".orders/job-0123.json", count)


def unsharded(settings=SETTINGS, stage="student", trains=True):
    return unsharded_job(settings, stage, "job-0123", "s3://bucket/store", ".orders/job-0123.json", trains=trains)


def every_job():
    for settings in (SETTINGS, PLAIN, PLATFORM):
        yield from (chunks(settings), unsharded(settings), unsharded(settings, "evaluation", trains=False))


def pod_of(job):
    return job["spec"]["template"]["spec"]


@pytest.mark.parametrize("version", VERSIONS)
def test_manifests_match_the_schemas_of_each_version(version):
    for manifest in [*every_job(), rendezvous_service(SETTINGS, "student", "job-0123", "uid-1")]:
        kubernetes_validate.validate(manifest, version, strict=True)


def test_the_schemas_reject_a_misspelt_field():
    job = chunks()
    job["spec"]["backOffLimit"] = job["spec"].pop("backoffLimitPerIndex")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, VERSIONS[0], strict=True)


def test_pods_have_minimal_permissions():
    for job in every_job():
        pod = pod_of(job)
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert not [volume for volume in pod["volumes"] if "hostPath" in volume]
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


def test_pods_write_only_to_their_volumes():
    for job in every_job():
        pod = pod_of(job)
        (container,) = pod["containers"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert [mount["name"] for mount in container["volumeMounts"] if mount.get("readOnly")] in ([], ["topology"])
        assert set(mounts) == set(volumes)
        env = {entry["name"]: entry.get("value", "") for entry in container["env"]}
        for name in ("HOME", "TMPDIR", "MOBILECLIP2_CACHE"):
            assert env[name].startswith(mounts["scratch"])
        assert mounts["shared-memory"] == "/dev/shm"
        assert volumes["shared-memory"]["emptyDir"]["medium"] == "Memory"


def test_a_group_has_one_completion_per_chunk():
    spec = chunks()["spec"]
    assert spec["completionMode"] == "Indexed"
    assert (spec["completions"], spec["parallelism"], spec["suspend"]) == (40, 6, False)
    assert chunks(count=2)["spec"]["parallelism"] == 2
    assert pod_of(chunks())["containers"][0]["command"][-2:] == ["--of", "40"]


def test_evictions_and_permanent_errors_use_no_retry():
    spec = chunks()["spec"]
    ignore, fail = spec["podFailurePolicy"]["rules"]
    assert ignore["action"] == "Ignore" and ignore["onPodConditions"][0]["type"] == "DisruptionTarget"
    assert fail["action"] == "FailJob" and fail["onExitCodes"]["values"] == [PERMANENT]
    assert fail["onExitCodes"]["containerName"] == pod_of(chunks())["containers"][0]["name"]
    assert spec["backoffLimitPerIndex"] > 0
    spec = unsharded()["spec"]
    disrupted, permanent = spec["podFailurePolicy"]["rules"]
    assert disrupted["action"] == permanent["action"] == "FailJob" and spec["backoffLimit"] == 0
    assert disrupted["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}], (
        "rule 0 wins for an evicted pod"
    )


def test_a_stage_uses_the_pod_settings_of_the_profile():
    pod = pod_of(chunks())
    (container,) = pod["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert pod["nodeSelector"] == {"gpu": "h100"}
    assert pod["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Exists"},
        {"key": "spot", "operator": "Equal", "value": "yes"},
    ]
    assert pod["priorityClassName"] == "low"
    assert pod["volumes"][1]["emptyDir"]["sizeLimit"] == "3Gi"
    assert container["envFrom"] == [{"secretRef": {"name": "object-store"}}]
    assert "nvidia.com/gpu" not in pod_of(chunks(stage="raw_shards"))["containers"][0]["resources"]["limits"]


def test_the_profile_overrides_single_defaults():
    settings = Kubernetes(image="i", stages={"teacher_embeddings": {"pods": 64}})
    assert settings.pods("teacher_embeddings").gpus == SANE["teacher_embeddings"]["gpus"] == 1
    assert settings.pods("teacher_embeddings").pods == 64
    assert settings.pods("augmentations") == Pods()


def test_every_stage_has_pod_settings():
    assert set(get_args(Stage)) == set(CODE_VERSIONS)
    asked = Kubernetes(image="i").pods
    assert asked("study") == asked("student") and asked("study").gpus == 8


def test_kueue_labels_require_a_queue():
    assert chunks()["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert not [label for label in chunks(PLAIN)["metadata"]["labels"] if "kueue" in label]


def test_kueue_priority_is_separate_and_only_chunks_have_a_minimum():
    metadata = chunks()["metadata"]
    assert metadata["labels"]["kueue.x-k8s.io/priority-class"] == "batch"
    assert metadata["annotations"] == {"kueue.x-k8s.io/job-min-parallelism": "2"}
    assert "annotations" not in chunks(count=2)["metadata"], "Kueue refuses a minimum that is not below parallelism"
    stages = {"student": {"pods": 4, "min_pods": 2, "priority": "high"}}
    metadata = unsharded(Kubernetes(image="i", queue="q", stages=stages))["metadata"]
    assert "annotations" not in metadata and "kueue.x-k8s.io/priority-class" not in metadata["labels"]


@pytest.mark.parametrize(
    ("queue", "fields", "message"),
    [
        (None, {"min_pods": 1}, "are for Kueue; set 'queue'"),
        (None, {"queue_priority": "a"}, "are for Kueue; set 'queue'"),
        ("q", {"pods": 2, "min_pods": 3}, "'min_pods' is 3, but 'pods' is only 2"),
    ],
)
def test_kueue_settings_are_validated(queue, fields, message):
    with pytest.raises(ValidationError, match=message):
        Kubernetes(image="i", queue=queue, stages={"student": fields})


def test_stage_settings_override_the_pod_template():
    plain, job = chunks(), chunks(PLATFORM)
    pod, ours = pod_of(job), pod_of(plain)
    for metadata in (job["metadata"], job["spec"]["template"]["metadata"]):
        assert metadata["labels"]["team"] == "vision" and "app.kubernetes.io/component" in metadata["labels"]
        assert metadata["annotations"]["kueue.x-k8s.io/elastic-job"] == "true"
    template = TEMPLATE["spec"]
    for field in ("schedulerName", "runtimeClassName", "affinity", "topologySpreadConstraints", "imagePullSecrets"):
        assert pod[field] == template[field]
    assert pod["tolerations"] == [*template["tolerations"], *ours["tolerations"]]
    assert pod["securityContext"] == {**ours["securityContext"], "supplementalGroups": [2000]}
    (container,), (own,) = pod["containers"], ours["containers"]
    assert {each["name"]: each.get("value") for each in container["env"]} == {
        "NCCL_DEBUG": "INFO",
        **{each["name"]: each.get("value") for each in own["env"]},
    }
    limits = {"vpc.amazonaws.com/efa": 4, "hugepages-2Mi": "5120Mi"}
    assert container["resources"]["limits"] == {**own["resources"]["limits"], **limits}
    assert [each["name"] for each in pod["volumes"]] == ["topology", *(each["name"] for each in ours["volumes"])]
    assert container["envFrom"] == [{"configMapRef": {"name": "nccl"}}, *own["envFrom"]]
    (sidecar,) = pod["initContainers"]
    assert sidecar["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert "securityContext" not in PLATFORM.pod_template["spec"]["initContainers"][0], "the profile stays as it is"
    check_job(chunks(PLATFORM))


def test_torchrun_uses_the_grace_period_of_the_pod_template():
    pod = pod_of(unsharded(PLATFORM))
    assert pod["terminationGracePeriodSeconds"] == 300
    assert "--shutdown-timeout=300" in pod["containers"][0]["command"]
    assert pod_of(unsharded(PLATFORM, "evaluation", trains=False))["terminationGracePeriodSeconds"] == 300


def test_a_training_has_its_rendezvous_at_the_first_pod():
    job, service = unsharded(), rendezvous_service(SETTINGS, "student", "job-0123", "uid-1")
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == 2
    pod = pod_of(job)
    (container,) = pod["containers"]
    command = container["command"]
    assert (
        "--master-addr=job-0123-0.job-0123" in command and "--nnodes=2" in command and "--nproc-per-node=8" in command
    )
    assert pod["subdomain"] == service["metadata"]["name"] and service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"batch.kubernetes.io/controller-uid": "uid-1"}
    (owner,) = service["metadata"]["ownerReferences"]
    assert owner == {"apiVersion": "batch/v1", "kind": "Job", "name": job["metadata"]["name"], "uid": "uid-1"}
    (rank,) = [entry for entry in container["env"] if entry["name"] == "PET_NODE_RANK"]
    assert "job-completion-index" in rank["valueFrom"]["fieldRef"]["fieldPath"]


def test_a_jobset_wraps_a_training_job_and_restarts_after_disruptions():
    job = unsharded(SETTINGS.model_copy(update={"jobset": True}))
    jobset = training_jobset(job, 3)
    assert jobset["metadata"] == job["metadata"], "with the queue of Kueue"
    (replicated,) = jobset["spec"]["replicatedJobs"]
    spec = replicated["template"]["spec"]
    assert spec["podFailurePolicy"] == job["spec"]["podFailurePolicy"] and "suspend" not in spec
    disrupted, permanent = jobset["spec"]["failurePolicy"]["rules"]
    assert disrupted["action"] == "RestartJobSetAndIgnoreMaxRestarts" and permanent["action"] == "FailJobSet"
    assert disrupted["onJobFailureMessagePatterns"] == ["DisruptionTarget"]
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] == 3
    assert "--master-addr=job-0123-node-0-0.job-0123" in pod_of(job)["containers"][0]["command"]
    check_jobset(jobset)


def test_pods_have_pod_name_and_trainings_have_a_grace_period():
    for job in every_job():
        env = {entry["name"]: entry for entry in pod_of(job)["containers"][0]["env"]}
        assert env["POD_NAME"]["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.name"
    training, evaluation = pod_of(unsharded()), pod_of(unsharded(stage="evaluation", trains=False))
    assert training["terminationGracePeriodSeconds"] == 120 and "terminationGracePeriodSeconds" not in evaluation
    assert "--shutdown-timeout=120" in training["containers"][0]["command"]
    lingers = [word for word in training["containers"][0]["command"] if word.startswith("--linger")]
    assert lingers == ["--linger=60"] and not [
        word for word in evaluation["containers"][0]["command"] if "linger" in word
    ]


def test_a_training_on_one_node_uses_a_loopback_rendezvous():
    pod = pod_of(unsharded(Kubernetes(image="i", stages={"student": {"pods": 1, "gpus": 8}})))
    command = pod["containers"][0]["command"]
    assert set(ON_THIS_MACHINE) <= set(command) and "--nproc-per-node=8" in command
    assert "subdomain" not in pod and not [word for word in command if "master" in word]


def test_a_stage_without_training_is_one_process():
    command = pod_of(unsharded(stage="evaluation", trains=False))["containers"][0]["command"]
    assert command[:3] == ["python", "-m", "mobileclip2.executors.pod"]
    assert command[3:6] == ["s3://bucket/store", ".logs/job-0123", "mobileclip2.executors.worker"]


@pytest.mark.parametrize(
    "stages", [{"teachers": {}}, {"student": {"gpu": 8}}, {"student": {"tolerations": [{"operator": "Equal"}]}}]
)
def test_invalid_stage_settings_are_rejected(stages):
    with pytest.raises(ValidationError):
        Kubernetes(image="i", stages=stages)
