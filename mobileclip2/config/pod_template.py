"""Pod templates of a platform team: what they may set, and how they merge with other templates and with our own pods."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import AfterValidator

WORK = "work"
"""name of the container that runs the worker"""

MERGE_KEYS = {
    **dict.fromkeys(("containers", "initContainers", "env", "volumes", "imagePullSecrets"), "name"),
    "volumeMounts": "mountPath",
}
"""field of an item's identity in each list that merges by item"""

APPENDED = {"tolerations", "envFrom"}
"""lists that are appended; all others are replaced"""

SETTINGS = {
    "spec.serviceAccountName": "compute.kubernetes.service_account",
    "spec.containers.work.image": "compute.kubernetes.image",
    "resources.cpu": "cpu of the stage",
    "resources.memory": "memory of the stage",
    "resources.ephemeral-storage": "disk of the stage",
}
"""setting that replaces each field with a setting of its own"""

RESERVED = {
    "spec": {
        *("restartPolicy", "serviceAccount", "automountServiceAccountToken", "enableServiceLinks", "subdomain"),
        *("hostname", "hostNetwork", "hostPID", "hostIPC", "activeDeadlineSeconds", "ephemeralContainers", "nodeName"),
    },
    "spec.securityContext": {
        *("runAsNonRoot", "runAsUser", "runAsGroup", "fsGroup", "fsGroupChangePolicy", "seccompProfile"),
    },
    "spec.containers.work": {"command", "args"},
    "spec.containers.work.securityContext": {"readOnlyRootFilesystem"},
}
"""fields that the pipeline sets itself, or that the *restricted* standard forbids"""

CONTAINER_SECURITY = {"allowPrivilegeEscalation", "capabilities", "privileged", "runAsNonRoot", "runAsUser"}
RESERVED_VOLUMES = ("scratch", "shared-memory")
RESERVED_MOUNTS = ("/scratch", "/dev/shm")
RESERVED_ENV = {"HOME", "TMPDIR", "MOBILECLIP2_CACHE", "POD_NAME"}
RESERVED_PREFIXES = ("batch.kubernetes.io/", "jobset.sigs.k8s.io/", "kueue.x-k8s.io/queue-name", "app.kubernetes.io/")
"""of labels that the pipeline or a controller sets"""


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Merge two pod templates as Kubernetes merges a strategic patch. ``over`` wins, and its nulls remove fields."""
    merged = dict(base)
    for name, value in over.items():
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, dict):
            below = merged.get(name)
            merged[name] = merge(below if isinstance(below, dict) else {}, value)
        elif isinstance(value, list) and name in MERGE_KEYS:
            items = {item[MERGE_KEYS[name]]: item for item in merged.get(name) or []}
            for item in value:
                key = item[MERGE_KEYS[name]]
                items[key] = merge(items.get(key, {}), item)
            merged[name] = list(items.values())
        elif name in APPENDED:
            merged[name] = [*(merged.get(name) or []), *value]
        else:
            merged[name] = value
    return merged


def _check(template: dict[str, Any]) -> dict[str, Any]:
    for problem in _problems(template):
        raise ValueError(f"pod_template: {problem}")
    return template


PodTemplate = Annotated[dict[str, Any], AfterValidator(_check)]
"""``metadata`` and ``spec`` of a pod, as in a Job; what the pipeline sets itself is an error"""


def _problems(template: dict[str, Any]) -> Iterator[str]:
    yield from _unknown("", template, {"metadata", "spec"})
    metadata, spec = _mapping(template, "metadata"), _mapping(template, "spec")
    yield from _unknown("metadata.", metadata, {"labels", "annotations"})
    for kind in ("labels", "annotations"):
        for name, value in _mapping(metadata, kind).items():
            if not isinstance(value, str):
                yield f"'metadata.{kind}.{name}' must be a string; put it in quotes"
    for label in _mapping(metadata, "labels"):
        if label.startswith(RESERVED_PREFIXES):
            yield f"the pipeline sets the label '{label}'; remove it"
    _check_lists(spec, "spec")
    yield from _reserved("spec", spec)
    grace = spec.get("terminationGracePeriodSeconds", 1)
    if type(grace) is not int or grace < 1:
        yield f"'spec.terminationGracePeriodSeconds' is {grace!r}; it must be a number of seconds"
    yield from _reserved("spec.securityContext", _mapping(spec, "securityContext"))
    for name in ("containers", "initContainers"):
        for container in spec.get(name) or []:
            yield from _container_problems(name, container)
    for volume in spec.get("volumes") or []:
        if volume["name"] in RESERVED_VOLUMES or volume["name"].startswith("claim-"):
            yield f"the pipeline sets the volume '{volume['name']}'; choose another name"
        if "hostPath" in volume:
            yield f"the volume '{volume['name']}' is a hostPath, which the restricted standard forbids"


def _container_problems(section: str, container: dict[str, Any]) -> Iterator[str]:
    name = container["name"]
    path = f"spec.{section}.{name}"
    if (name == WORK) != (section == "containers"):
        yield (
            f"'{path}': 'containers' accepts only '{WORK}'; write another container under 'initContainers', "
            "a sidecar with 'restartPolicy: Always'"
        )
    for field in sorted(CONTAINER_SECURITY & set(_mapping(container, "securityContext"))):
        yield f"the pipeline sets '{path}.securityContext.{field}'; remove it"
    _check_lists(container, path)
    for variable in container.get("env") or []:
        if not isinstance(variable.get("value"), str | None):
            yield f"'{path}.env.{variable['name']}' must be a string; put it in quotes"
    if name != WORK:
        return
    yield from _reserved(path, container)
    yield from _reserved(f"{path}.securityContext", _mapping(container, "securityContext"))
    for variable in container.get("env") or []:
        if variable["name"] in RESERVED_ENV or variable["name"].startswith("PET_"):
            yield f"the pipeline sets the environment variable '{variable['name']}'; remove it"
    for mount in container.get("volumeMounts") or []:
        if mount["mountPath"].rstrip("/") in RESERVED_MOUNTS:
            yield f"the pipeline mounts a volume at '{mount['mountPath']}'; choose another path"
    resources = _mapping(container, "resources")
    for kind in ("requests", "limits"):
        for resource in _mapping(resources, kind):
            if setting := SETTINGS.get(f"resources.{resource}"):
                yield f"'{path}.resources' sets '{resource}'; set {setting} instead"


def _mapping(fields: dict[str, Any], name: str) -> dict[str, Any]:
    value = fields.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"pod_template: '{name}' must be a mapping")
    return value


def _check_lists(fields: dict[str, Any], path: str) -> None:
    for name, key in MERGE_KEYS.items():
        items = fields.get(name) or []
        if not (isinstance(items, list) and all(isinstance(item, dict) and _is_text(item.get(key)) for item in items)):
            raise ValueError(f"pod_template: '{path}.{name}' must be a list of mappings, each with a string '{key}'")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _unknown(prefix: str, fields: dict[str, Any], known: set[str]) -> Iterator[str]:
    for name in fields:
        if name not in known:
            yield f"unknown field '{prefix}{name}'; known are {', '.join(sorted(known))}"


def _reserved(path: str, fields: dict[str, Any]) -> Iterator[str]:
    for name in fields:
        field = f"{path}.{name}"
        if field in SETTINGS:
            yield f"'{field}' has a setting of its own; set {SETTINGS[field]} instead"
        elif name in RESERVED.get(path, ()):
            yield f"the pipeline sets '{field}'; remove it"
