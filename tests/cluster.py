"""A Kubernetes cluster small enough for tests: the API over real HTTP on loopback, a Job controller, a scheduler that counts
GPUs, and pods that are processes of this machine.

It behaves as a real control plane of version 1.36 was observed to. ``test_fake_cluster.py`` has a test for each fact.
The API server checks bodies against the published schemas and against the rules for Jobs. A pod that is deleted or
evicted gets SIGTERM, then SIGKILL after a grace period, and then it is not listed any more. A Job gets
``FailureTarget`` first, and ``Failed`` when all its pods have terminated. The pods of a node that dies stay
``Terminating``. A Job whose pods are refused has events and no pods.

It has no images, no network and no quota. A path under the scratch volume is a folder of the pod. The name of a pod
stands for this machine. ConfigMaps, Secrets and volumes do not exist.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kubernetes_validate
import yaml

from tests.kubelet import Kubelet
from tests.ui.server import free_port

VERSION = "1.33"
TICK_SECONDS = 0.03
NAME = "batch.kubernetes.io/job-name"
OLD_NAME = "job-name"
"""Label by which Dagster selects pods. The controller sets this one and ``NAME``."""
INDEX = "batch.kubernetes.io/job-completion-index"
UID = "batch.kubernetes.io/controller-uid"
Object = dict[str, Any]


def now(seconds: float = 0.0) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


class Refused(Exception):
    def __init__(self, status: int, message: str, reason: str = "") -> None:
        self.status, self.reason = status, reason
        super().__init__(message)


@dataclass
class Counted:
    """The counts of a Job's controller. The counted pods may be deleted."""

    pods: set[str] = field(default_factory=set)
    succeeded: set[int] = field(default_factory=set)
    failures: Counter[int] = field(default_factory=Counter)
    """Failures by index, without those that the policy ignores."""
    failed: int = 0
    fail_job: str = ""
    """message of the rule that fails the Job"""
    next_attempt: float = 0.0
    """Time at which pods are created again after a refusal."""


@dataclass
class Faults:
    """Faults that a test sets."""

    answer: Callable[[str, str], int | None] = lambda method, path: None
    """status that replaces the processing of a request"""
    lose: Callable[[str, str], int | None] = lambda method, path: None
    """status that replaces the response to a processed request, as if that was lost"""
    cut: Callable[[str, str], bool] = lambda method, path: False
    """whether the connection breaks in the middle of an answer"""
    refuse: Callable[[Object], str | None] = lambda pod: None
    """why the API server refuses to create a pod"""
    gate: Callable[[Object], dict[str, Any]] = lambda pod: {}
    """arguments of :func:`tests.kubelet.hold_at_gate` or :func:`tests.faults.arm` in a new pod"""


@dataclass
class FakeCluster:
    """Use it as a context manager. ``kubeconfig`` is the path of a kubeconfig file for it."""

    folder: Path
    nodes: dict[str, int]
    """GPUs by node"""
    faults: Faults = field(default_factory=Faults)
    grace_seconds: float = 3.0
    """Seconds from SIGTERM to SIGKILL, for all pods. A real cluster has 30."""
    unreachable_seconds: float = 0.3
    """Seconds until the pods of a dead node are not ready any more. A real cluster has about 50."""
    eviction_seconds: float = 0.6
    """Seconds until the pods of a dead node are evicted. A real cluster has 350."""

    def __enter__(self) -> FakeCluster:
        self.objects: dict[str, dict[str, Object]] = {
            "jobs": {},
            "pods": {},
            "services": {},
            "events": {},
            "jobsets": {},
        }
        self.counted: dict[str, Counted] = {}
        """by uid of the Job"""
        self.made: dict[str, set[str]] = {}
        """uids of the Jobs of a JobSet"""
        self.dead: dict[str, float] = {}
        """Time at which each dead node stopped answering."""
        self.kill_at: dict[str, float] = {}
        """Time of SIGKILL by name of a terminating pod."""
        self.requests: list[str] = []
        self.everything: list[Object] = []
        """All pods ever created, in order."""
        self.lock = threading.RLock()
        self.number = 0
        self.ports: dict[str, int] = {}
        """Rendezvous port by name of a Job."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.kubelet = Kubelet(self.ended)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"cluster": self}))
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.kubeconfig = self.folder / "kubeconfig.yaml"
        entry = {"name": "fake", "context": {"cluster": "fake", "user": "nobody"}}
        self.kubeconfig.write_text(
            yaml.safe_dump(
                {
                    "clusters": [{"name": "fake", "cluster": {"server": self.url}}],
                    "users": [{"name": "nobody", "user": {}}],
                    "contexts": [entry],
                    "current-context": "fake",
                }
            )
        )
        self.closing = threading.Event()
        self.threads = [threading.Thread(target=target) for target in (self.server.serve_forever, self._control)]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.server.shutdown()
        for thread in self.threads:
            thread.join()
        self.server.server_close()
        self.kubelet.close()

    # actions of tests

    def pods(self, *phases: str) -> list[Object]:
        with self.lock:
            return [pod for pod in self.objects["pods"].values() if not phases or pod["status"]["phase"] in phases]

    def kill(self, pod: Object) -> None:
        """Send SIGKILL to a pod, as the out-of-memory killer does."""
        self.kubelet.signal(pod["metadata"]["name"], signal.SIGKILL)

    def evict(self, pod: Object) -> None:
        """Evict a pod, as the eviction API does for a drain of a node, or a cloud that reclaims a spot node."""
        with self.lock:
            self._condition(pod, "DisruptionTarget", "True", reason="EvictionByEvictionAPI", message="evicted")
            self._delete_pod(pod)

    def lose_node(self, node: str, *, running: bool = False) -> None:
        """Let a node die without notice. With ``running``, only its kubelet stops, and its processes continue."""
        with self.lock:
            self.dead[node] = time.monotonic()
            lost = [pod for pod in self.pods() if pod["spec"].get("nodeName") == node]
        for pod in [] if running else lost:
            self.kubelet.signal(pod["metadata"]["name"], signal.SIGKILL)

    def remove_node(self, node: str) -> None:
        """Delete the Node object, or set the out-of-service taint. Its pods count as failed and are deleted."""
        with self.lock:
            for pod in [pod for pod in self.pods() if pod["spec"].get("nodeName") == node]:
                self._condition(pod, "DisruptionTarget", "True", reason="DeletionByPodGC", message="node is gone")
                self.kubelet.signal(pod["metadata"]["name"], signal.SIGKILL)
                pod["metadata"].setdefault("deletionTimestamp", now())
                pod["status"]["phase"] = "Failed"
            self.dead.pop(node, None)

    # the API

    def create(self, kind: str, body: Object) -> Object:
        if kind == "jobsets":
            check_jobset(body)
        try:
            if kind != "jobsets":
                kubernetes_validate.validate(body, VERSION, strict=True)
        except kubernetes_validate.ValidationError as error:
            raise Refused(422, str(error)) from None
        if kind == "jobs":
            body["spec"] = {**DEFAULTS, **body["spec"]}
            check_job(body)
        name = body["metadata"]["name"]
        with self.lock:
            if name in self.objects[kind]:
                raise Refused(409, f'{kind} "{name}" already exists', "AlreadyExists")
            self.number += 1
            body["metadata"].update(uid=f"uid-{self.number}", creationTimestamp=now())
            body["status"] = {}
            self.objects[kind][name] = body
            return body

    def delete(self, kind: str, name: str) -> Object:
        with self.lock:
            deleted = self.read(kind, name)
            if kind == "pods":
                self._delete_pod(deleted)
                return deleted
            del self.objects[kind][name]
            return deleted

    def read(self, kind: str, name: str) -> Object:
        with self.lock:
            if name not in self.objects[kind]:
                raise Refused(404, f"{kind} {name} not found")
            return self.objects[kind][name]

    def patch(self, kind: str, name: str, change: Object) -> Object:
        with self.lock:
            spec = self.read(kind, name)["spec"]
            fixed = set(change.get("spec", {})) - {"parallelism", "suspend"}
            if fixed:
                raise Refused(422, f"{', '.join(sorted(fixed))}: field is immutable")
            spec.update(change["spec"])
            return self.read(kind, name)

    def select(self, kind: str, labels: str, fields: str) -> Object:
        wanted, named = (dict(part.split("=", 1) for part in each.split(",") if part) for each in (labels, fields))
        known = {"metadata.name"}
        if kind == "events":
            known |= {"reason", "type", *(f"involvedObject.{name}" for name in ("kind", "name", "namespace", "uid"))}
        if not named.keys() <= known:
            raise Refused(400, f"field label not supported: {fields}")
        with self.lock:
            items = [
                each
                for each in self.objects[kind].values()
                if wanted.items() <= each["metadata"].get("labels", {}).items()
                and all(_field(each, path) == value for path, value in named.items())
            ]
            return {"kind": "List", "apiVersion": "v1", "metadata": {}, "items": items}

    def log(self, name: str, query: dict[str, str]) -> str:
        self.read("pods", name)
        path = self.folder / f"{name}.log"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        if query.get("timestamps") in {"true", "True", "1"}:  # Go accepts all three, and the Python client sends 'True'
            lines = [f"{now()} {line}" for line in lines]
        return "".join(lines[-int(query["tailLines"]) :] if "tailLines" in query else lines)

    # the controllers

    def _control(self) -> None:
        while not self.closing.wait(TICK_SECONDS):
            with self.lock:
                self._watch_nodes()
                for jobset in list(self.objects["jobsets"].values()):
                    self._keep(jobset)
                for job in list(self.objects["jobs"].values()):
                    self._reconcile(job)
                self._collect()
                for pod in self.pods("Pending"):
                    if "deletionTimestamp" not in pod["metadata"]:
                        self._schedule(pod)

    def _keep(self, jobset: Object) -> None:
        """Create the Job of a JobSet, and recreate it by the failure policy, as the controller of JobSets does."""
        (replicated,), status = jobset["spec"]["replicatedJobs"], jobset["status"]
        if status.get("conditions"):
            return
        name = f"{jobset['metadata']['name']}-{replicated['name']}-0"
        job = self.objects["jobs"].get(name)
        made = self.made.setdefault(jobset["metadata"]["uid"], set())
        if job is None:
            if any(pod["metadata"]["labels"][UID] in made for pod in self.pods()):
                return  # BlockingRecreate
            owner = {key: jobset[key] for key in ("apiVersion", "kind")}
            owner |= {key: jobset["metadata"][key] for key in ("name", "uid")}
            metadata = {"name": name, "namespace": jobset["metadata"].get("namespace"), "ownerReferences": [owner]}
            body = {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, **replicated["template"]}
            body = json.loads(json.dumps(body))
            body["spec"]["template"]["spec"]["subdomain"] = jobset["metadata"]["name"]
            made.add(self.create("jobs", body)["metadata"]["uid"])
            return
        if job["metadata"]["uid"] not in made:
            return  # of an earlier JobSet of this name
        ends = [each for each in job["status"].get("conditions", []) if each["type"] in {"Complete", "Failed"}]
        if ends and ends[0]["type"] == "Complete":
            status["conditions"] = [condition_of("Completed", "AllJobsCompleted", "")]
        elif ends:
            policy = jobset["spec"]["failurePolicy"]
            action = next((rule["action"] for rule in policy["rules"] if _fits(rule, ends[0])), "RestartJobSet")
            count = status.get("restartsCountTowardsMax", 0) + (action == "RestartJobSet")
            if action == "FailJobSet" or count > policy["maxRestarts"]:
                reason = "FailJobSetFailurePolicyAction" if action == "FailJobSet" else "ReachedMaxRestarts"
                status["conditions"] = [condition_of("Failed", reason, "jobset failed")]
                return
            status.update(restarts=status.get("restarts", 0) + 1, restartsCountTowardsMax=count)
            del self.objects["jobs"][name]

    def _watch_nodes(self) -> None:
        for node, since in self.dead.items():
            for pod in [pod for pod in self.pods("Running") if pod["spec"].get("nodeName") == node]:
                if time.monotonic() - since > self.unreachable_seconds:
                    self._condition(pod, "Ready", "False")
                if time.monotonic() - since > self.eviction_seconds:
                    self._condition(pod, "DisruptionTarget", "True", reason="DeletionByTaintManager")
                    self._delete_pod(pod)

    def _collect(self) -> None:
        """Kill pods after their grace period. Delete pods that have terminated, and objects whose owner is deleted."""
        for name, deadline in list(self.kill_at.items()):
            if time.monotonic() > deadline:
                del self.kill_at[name]
                self.kubelet.signal(name, signal.SIGKILL)
        uids = {job["metadata"]["uid"] for job in self.objects["jobs"].values()}
        sets = {jobset["metadata"]["uid"] for jobset in self.objects["jobsets"].values()}
        for job in list(self.objects["jobs"].values()):
            owners = job["metadata"].get("ownerReferences", [])
            if owners and owners[0]["kind"] == "JobSet" and owners[0]["uid"] not in sets:
                del self.objects["jobs"][job["metadata"]["name"]]
        for service in list(self.objects["services"].values()):
            owners = service["metadata"].get("ownerReferences", [])
            if owners and owners[0]["uid"] not in uids:
                del self.objects["services"][service["metadata"]["name"]]
        for event in list(self.objects["events"].values()):
            if event["involvedObject"]["uid"] not in uids:
                del self.objects["events"][event["metadata"]["name"]]
        for pod in self.pods():
            name, owner = pod["metadata"]["name"], pod["metadata"]["ownerReferences"][0]["uid"]
            if owner not in uids:
                self._delete_pod(pod)
            counted = owner not in uids or name in self.counted[owner].pods
            if "deletionTimestamp" in pod["metadata"] and pod["status"]["phase"] in ENDED and counted:
                del self.objects["pods"][name]

    def _delete_pod(self, pod: Object) -> None:
        """Let a pod terminate. Its object stays until its node reports that it has ended."""
        if "deletionTimestamp" in pod["metadata"]:
            return
        name = pod["metadata"]["name"]
        pod["metadata"].update(deletionTimestamp=now(self.grace_seconds), deletionGracePeriodSeconds=self.grace_seconds)
        if pod["status"]["phase"] == "Pending":
            pod["status"]["phase"] = "Failed"
        elif pod["status"]["phase"] == "Running" and pod["spec"]["nodeName"] not in self.dead:
            self.kubelet.signal(name, signal.SIGTERM)
            self.kill_at[name] = time.monotonic() + self.grace_seconds

    def _pods_of(self, job: Object) -> list[Object]:
        uid = job["metadata"]["uid"]
        return [pod for pod in self.objects["pods"].values() if pod["metadata"]["ownerReferences"][0]["uid"] == uid]

    def _count(self, job: Object, pods: list[Object]) -> Counted:
        """Count the pods that have ended since the last time, each once."""
        counted = self.counted.setdefault(job["metadata"]["uid"], Counted())
        # without a failure policy, a pod counts as failed as soon as it is deleted
        deleted_is_failed = "podFailurePolicy" not in job["spec"]
        for pod in pods:
            name, phase = pod["metadata"]["name"], pod["status"]["phase"]
            if phase not in ENDED and not (deleted_is_failed and "deletionTimestamp" in pod["metadata"]):
                continue
            if name in counted.pods:
                continue
            counted.pods.add(name)
            if phase == "Succeeded":
                counted.succeeded.add(index_of(pod))
                continue
            counted.failed += 1
            action, why = action_of(job, pod)
            if action == "FailJob":
                counted.fail_job = counted.fail_job or why
            counted.failures[index_of(pod)] += action != "Ignore"
        return counted

    def _reconcile(self, job: Object) -> None:
        spec, status = job["spec"], job["status"]
        conditions = {condition["type"]: condition for condition in status.get("conditions", [])}
        if conditions.keys() & {"Complete", "Failed"}:
            return
        pods = self._pods_of(job)
        counted = self._count(job, pods)
        going = [pod for pod in pods if pod["status"]["phase"] not in ENDED]
        terminating = [pod for pod in going if "deletionTimestamp" in pod["metadata"]]
        live = [pod for pod in going if pod not in terminating]
        limit = spec.get("backoffLimitPerIndex")
        done = counted.succeeded
        failed = {index for index, count in counted.failures.items() if limit is not None and count > limit}
        end = conditions.get("FailureTarget")
        if end:
            pass
        elif counted.fail_job:
            end = condition_of("FailureTarget", "PodFailurePolicy", counted.fail_job)
        elif limit is None and counted.failures.total() > spec.get("backoffLimit", 6):
            message = "Job has reached the specified backoff limit"
            end = condition_of("FailureTarget", "BackoffLimitExceeded", message)
        elif len(done) < spec["completions"] == len(done | failed):
            end = condition_of("FailureTarget", "FailedIndexes", "Job has failed indexes")
        if end or len(done) == spec["completions"]:
            for pod in live:
                self._delete_pod(pod)
            live = []
        elif spec.get("suspend"):
            self._delete_uncounted(counted, live)
            live = []
        else:
            # with a failure policy, a terminating pod is not replaced
            busy = {index_of(pod) for pod in (going if "podFailurePolicy" in spec else live)}
            for index in range(spec["completions"]):
                is_due = len(live) < spec["parallelism"] and index not in done | failed | busy
                if is_due and (pod := self._create_pod(job, index, counted)):
                    live.append(pod)
            self._delete_uncounted(counted, live[spec["parallelism"] :])
            del live[spec["parallelism"] :]
        status.setdefault("startTime", now())
        status.update(
            active=len(live),
            ready=sum(has_condition(pod, "Ready") for pod in live),
            terminating=len(terminating),
            succeeded=len(done),
            failed=counted.failed,
            completedIndexes=",".join(map(str, sorted(done))),
            failedIndexes=",".join(map(str, sorted(failed))),
        )
        if spec["completionMode"] != "Indexed":
            del status["completedIndexes"], status["failedIndexes"]
        over = not [pod for pod in self._pods_of(job) if pod["status"]["phase"] not in ENDED]
        if end:
            status["conditions"] = [end]
            if over:
                status["conditions"].append(condition_of("Failed", end["reason"], end["message"]))
        elif len(done) == spec["completions"]:
            kinds = ("SuccessCriteriaMet", "Complete")[: 1 + over]
            status["conditions"] = [condition_of(kind, "CompletionsReached", "") for kind in kinds]
            if over:
                status["completionTime"] = now()

    def _delete_uncounted(self, counted: Counted, pods: list[Object]) -> None:
        """Delete pods without counting them, because pods that the controller itself deletes are not failures."""
        for pod in pods:
            counted.pods.add(pod["metadata"]["name"])
            self._delete_pod(pod)

    def _create_pod(self, job: Object, index: int, counted: Counted) -> Object | None:
        if time.monotonic() < counted.next_attempt:
            return None
        self.number += 1
        template, name = job["spec"]["template"], job["metadata"]["name"]
        indexed = job["spec"]["completionMode"] == "Indexed"
        number = {INDEX: str(index)} if indexed else {}
        names = {NAME: name, OLD_NAME: name, UID: job["metadata"]["uid"]}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"{name}-{f'{index}-' if indexed else ''}{self.number:05d}",
                "labels": {**template["metadata"].get("labels", {}), **names, **number},
                "annotations": number,
                "uid": f"uid-{self.number}",
                "creationTimestamp": now(),
                "ownerReferences": [
                    {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": job["metadata"]["uid"]}
                ],
            },
            "spec": json.loads(json.dumps(template["spec"])),
            "status": {"phase": "Pending", "conditions": []},
        }
        if why := self.faults.refuse(pod):
            counted.next_attempt = time.monotonic() + 0.2
            self._warn(job, "FailedCreate", f"Error creating: {why}")
            return None
        self.objects["pods"][pod["metadata"]["name"]] = pod
        self.everything.append(pod)
        return pod

    def _warn(self, job: Object, reason: str, message: str) -> None:
        """Record an event, or increment its count if it exists."""
        name = f"{job['metadata']['name']}.{reason.lower()}"
        event = self.objects["events"].get(name, {"count": 0})
        self.objects["events"][name] = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name},
            "involvedObject": {"kind": "Job", **{key: job["metadata"][key] for key in ("name", "uid")}},
            "type": "Warning",
            "reason": reason,
            "message": message,
            "count": event["count"] + 1,
            "lastTimestamp": now(),
        }

    # the scheduler and the node

    def _schedule(self, pod: Object) -> None:
        wanted = gpus_of(pod)
        for node, gpus in self.nodes.items():
            if node in self.dead:
                continue
            used = sum(gpus_of(other) for other in self.pods("Running") if other["spec"].get("nodeName") == node)
            if used + wanted <= gpus:
                pod["spec"]["nodeName"] = node
                self._condition(pod, "PodScheduled", "True")
                pod["status"].update(phase="Running", startTime=now())
                self._condition(pod, "Ready", "True")
                self._state(pod, {"running": {"startedAt": now()}})
                self._start(pod)
                return
        count = len(self.nodes)
        message = f"0/{count} nodes are available: {count} Insufficient nvidia.com/gpu."
        self._condition(pod, "PodScheduled", "False", reason="Unschedulable", message=message)

    def _start(self, pod: Object) -> None:
        name, spec = pod["metadata"]["name"], pod["spec"]
        (container,) = spec["containers"]
        scratch = self.folder / name / "scratch"
        scratch.mkdir(parents=True)
        env = self.image_environment()
        if instructions := os.environ.get("ONEDNN_MAX_CPU_ISA"):  # trained weights depend on it
            env["ONEDNN_MAX_CPU_ISA"] = instructions
        index = str(index_of(pod))
        for entry in [*container.get("env", []), {"name": "JOB_COMPLETION_INDEX", "value": index}]:
            value = entry.get("value", name if "metadata.name" in str(entry) else index)
            env[entry["name"]] = re.sub(r"^/scratch", self.seen_in_container(scratch), value)
        host = rf"{re.escape(name.rpartition('-')[0].rpartition('-')[0])}-\d+\.{re.escape(spec.get('subdomain', '-'))}"
        # the image has no entry point
        words = [*container.get("command", []), *container.get("args", [])]
        command = [re.sub(host, "127.0.0.1", word) for word in words]
        # pods of other trainings on this machine use another rendezvous port
        job = pod["metadata"]["labels"][NAME]
        meets = f"--master-port={self.ports.setdefault(job, free_port())}"
        command = [meets if word.startswith("--master-port=") else word for word in command]
        self.start_container(pod, command, env, self.folder / f"{name}.log")

    def image_environment(self) -> dict[str, str]:
        """Return the environment variables of an image. Here these are those that a process of this machine needs."""
        return {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "OMP_NUM_THREADS": "1"}

    def seen_in_container(self, scratch: Path) -> str:
        """Return the path of the scratch volume inside a container."""
        return str(scratch)

    def start_container(self, pod: Object, command: list[str], env: dict[str, str], log: Path) -> None:
        """Start the container of a pod as a process of this machine. The process calls :meth:`ended` at its end."""
        self.kubelet.start(pod["metadata"]["name"], command, env, log, self.faults.gate(pod))

    def ended(self, name: str, code: int) -> None:
        with self.lock:
            self.kill_at.pop(name, None)
            pod = self.objects["pods"].get(name)
            if pod is None or pod["status"]["phase"] in ENDED or pod["spec"]["nodeName"] in self.dead:
                return
            pod["status"]["phase"] = "Failed" if code else "Succeeded"
            self._condition(pod, "Ready", "False")
            reason = {0: "Completed", 137: "OOMKilled"}.get(code, "Error")
            self._state(pod, {"terminated": {"exitCode": code, "reason": reason, "finishedAt": now()}})
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def _state(self, pod: Object, state: Object) -> None:
        container = pod["spec"]["containers"][0]
        said = {"name": container["name"], "image": container["image"], "imageID": "", "ready": "running" in state}
        pod["status"]["containerStatuses"] = [{**said, "restartCount": 0, "state": state}]

    def _condition(self, pod: Object, kind: str, status: str, **more: str) -> None:
        others = [condition for condition in pod["status"]["conditions"] if condition["type"] != kind]
        pod["status"]["conditions"] = [*others, {"type": kind, "status": status, "lastTransitionTime": now(), **more}]


ENDED = {"Succeeded", "Failed"}
DEFAULTS: Object = {"completionMode": "NonIndexed", "completions": 1, "parallelism": 1}
"""Fields of a Job that the API server fills in."""


def index_of(pod: Object) -> int:
    return int(pod["metadata"]["annotations"].get(INDEX, 0))


def gpus_of(pod: Object) -> int:
    return int(pod["spec"]["containers"][0].get("resources", {}).get("limits", {}).get("nvidia.com/gpu", 0))


def exit_code(pod: Object) -> int | None:
    """Return the exit code of a pod's container, or None if the node did not report its end."""
    for container in pod["status"].get("containerStatuses", []):
        if ended := container["state"].get("terminated"):
            return int(ended["exitCode"])
    return None


def has_condition(pod: Object, kind: str) -> bool:
    return any(each["type"] == kind and each["status"] == "True" for each in pod["status"]["conditions"])


def condition_of(kind: str, reason: str, message: str) -> Object:
    return {"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": now()}


def action_of(job: Object, pod: Object) -> tuple[str, str]:
    """Return the action of the first failure rule that matches a pod, and the message if it fails the Job."""
    name, code = f"{job['metadata'].get('namespace', 'default')}/{pod['metadata']['name']}", exit_code(pod)
    for number, rule in enumerate(job["spec"].get("podFailurePolicy", {}).get("rules", [])):
        tail = f"matching {rule['action']} rule at index {number}"
        for pattern in rule.get("onPodConditions", []):
            if has_condition(pod, pattern["type"]):
                return str(rule["action"]), f"Pod {name} has condition {pattern['type']} {tail}"
        codes = rule.get("onExitCodes")
        if codes and code and (code in codes["values"]) == (codes["operator"] == "In"):
            container = codes.get("containerName", "")
            return str(rule["action"]), f"Container {container} for pod {name} failed with exit code {code} {tail}"
    return "Count", ""


def _field(each: Object, path: str) -> Any:
    value: Any = each
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _fits(rule: Object, failed: Object) -> bool:
    """Return whether a rule of a JobSet matches this condition of its Job."""
    patterns, reasons = rule.get("onJobFailureMessagePatterns", []), rule.get("onJobFailureReasons", [])
    known = not patterns or any(re.search(pattern, failed["message"]) for pattern in patterns)
    return known and (not reasons or failed["reason"] in reasons)


def check_jobset(jobset: Object) -> None:
    """Check strictly that a JobSet has only the fields that we use, and check its Job against the schema of Jobs."""
    known = {
        "": {"suspend", "ttlSecondsAfterFinished", "network", "failurePolicy", "replicatedJobs"},
        "network": {"enableDNSHostnames", "subdomain", "publishNotReadyAddresses"},
        "failurePolicy": {"maxRestarts", "restartStrategy", "rules"},
    }
    spec = jobset["spec"]
    (replicated,) = spec["replicatedJobs"]
    unknown = set(replicated) - {"name", "replicas", "template"}
    for name, fields in known.items():
        unknown |= set(spec[name] if name else spec) - fields
    for rule in spec["failurePolicy"]["rules"]:
        unknown |= set(rule) - {"name", "action", "onJobFailureReasons", "onJobFailureMessagePatterns"}
        if rule["action"] not in {"FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"}:
            raise Refused(422, f"Unsupported value: {rule['action']}")
    if unknown or jobset["apiVersion"] != "jobset.x-k8s.io/v1alpha2":
        raise Refused(400, f"strict decoding error: unknown field {sorted(unknown)}")
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": jobset["metadata"], **replicated["template"]}
    try:
        kubernetes_validate.validate(job, VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        raise Refused(422, str(error)) from None


def check_job(job: Object) -> None:
    """Check the rules of the API server that are not in a schema."""
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    volumes = [volume["name"] for volume in pod.get("volumes", [])]
    names = [job["metadata"]["name"], *volumes]
    wrong = [name for name in names if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name)]
    if wrong:
        raise Refused(422, f"{wrong}: not a DNS label")
    if pod["restartPolicy"] != "Never" or (spec["completionMode"] != "Indexed" and spec["completions"] != 1):
        raise Refused(422, "only Jobs that never restart a container are known here, of one pod or Indexed")
    if "podFailurePolicy" in spec and spec.get("podReplacementPolicy", "Failed") != "Failed":
        raise Refused(422, "podReplacementPolicy: only 'Failed' goes with podFailurePolicy")
    containers = {container["name"]: container for container in pod["containers"]}
    for rule in spec.get("podFailurePolicy", {}).get("rules", []):
        if len({"onExitCodes", "onPodConditions"} & set(rule)) != 1:
            raise Refused(422, "a rule has exactly one of onExitCodes and onPodConditions")
        if "onExitCodes" in rule and rule["onExitCodes"]["containerName"] not in containers:
            raise Refused(422, "onExitCodes names no container")
    for container in containers.values():
        if any(mount["name"] not in volumes for mount in container.get("volumeMounts", [])):
            raise Refused(422, "volumeMounts name no volume")
        resources = container.get("resources", {})
        requests = {**resources.get("limits", {}), **resources.get("requests", {})}  # a limit is the default request
        for resource, value in resources.get("limits", {}).items():
            if "/" in resource and requests[resource] != value:
                raise Refused(422, f"{resource}: requests and limits must be equal")


class _Handler(BaseHTTPRequestHandler):
    cluster: FakeCluster
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # otherwise each body waits 40 ms for the acknowledgment of its headers
    PATH = re.compile(
        r"/(?:api/v1|apis/batch/v1|apis/jobset.x-k8s.io/v1alpha2)"
        r"/namespaces/[^/]+/(?P<kind>jobs|jobsets|pods|services|events)"
        r"(?:/(?P<name>[^/]+)(?P<part>/log|/status)?)?"
    )

    def _handle(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else {}
        with self.cluster.lock:
            self.cluster.requests.append(f"{self.command} {url.path}")
        status = self.cluster.faults.answer(self.command, url.path)
        if status:
            return self._say(status, "a fault of the test")
        try:
            answer = self._do(url.path, query, body)
        except Refused as refused:
            return self._say(refused.status, str(refused), refused.reason)
        status = self.cluster.faults.lose(self.command, url.path)
        if status:
            return self._say(status, "the answer was lost")
        cut = self.cluster.faults.cut(self.command, url.path)
        if isinstance(answer, str):
            self._send(200, answer, "text/plain", cut=cut)
        else:
            self._send(200, json.dumps(answer), cut=cut)

    def _do(self, path: str, query: dict[str, str], body: Object) -> Object | str:
        found = self.PATH.fullmatch(path)
        if not found:
            raise Refused(404, f"{path} is not known here")
        kind, name = found["kind"], found["name"]
        with self.cluster.lock:
            answer: Object | str
            if found["part"] == "/log":
                answer = self.cluster.log(name, query)
            elif self.command == "POST":
                answer = self.cluster.create(kind, body)
            elif self.command == "DELETE":
                answer = self.cluster.delete(kind, name)
            elif self.command == "PATCH":
                answer = self.cluster.patch(kind, name, body)
            elif name:
                answer = self.cluster.read(kind, name)
            else:
                answer = self.cluster.select(kind, query.get("labelSelector", ""), query.get("fieldSelector", ""))
            return answer if isinstance(answer, str) else json.loads(json.dumps(answer))

    do_GET = do_POST = do_DELETE = do_PATCH = _handle

    def _say(self, status: int, message: str, reason: str = "") -> None:
        body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status, "message": message}
        body["reason"] = reason or {401: "Unauthorized", 409: "Conflict"}.get(status, "")
        self._send(status, json.dumps(body))

    def _send(self, status: int, text: str, kind: str = "application/json", *, cut: bool = False) -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if cut else data)
        self.close_connection |= cut

    def log_message(self, *_: object) -> None:
        pass
