"""A Kubernetes cluster small enough for tests: the API over real HTTP on loopback, a Job controller, a scheduler that counts
GPUs, and pods that are processes of this machine.

It keeps to what the real one does with what we ask of it: bodies are checked against the published schemas and against the rules
for Indexed Jobs; replacement pods come only when the old one has ended; ``backoffLimitPerIndex``, exit codes and disruptions
count as they should. It has no admission, no images, no network and no quota. A path under the scratch volume is a folder
of the pod, and the name of a pod is this machine.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kubernetes_validate
import yaml

from tests.kubelet import Kubelet

VERSION = "1.33"
TICK_SECONDS = 0.03
NAME = "batch.kubernetes.io/job-name"
INDEX = "batch.kubernetes.io/job-completion-index"
Object = dict[str, Any]


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


@dataclass
class Faults:
    """What goes wrong, set by a test."""

    answer: Callable[[str, str], int | None] = lambda method, path: None
    """status for a request instead of doing it"""
    lose: Callable[[str, str], int | None] = lambda method, path: None
    """status for a request after doing it: the answer is lost"""
    gate: Callable[[Object], dict[str, Any]] = lambda pod: {}
    """what :func:`tests.kubelet.hold_at_gate` does in a new pod"""


@dataclass
class FakeCluster:
    """Use it as a context; ``kubeconfig`` is a file that leads to it."""

    folder: Path
    nodes: dict[str, int]
    """GPUs by node"""
    faults: Faults = field(default_factory=Faults)

    def __enter__(self) -> FakeCluster:
        self.objects: dict[str, dict[str, Object]] = {"jobs": {}, "pods": {}, "services": {}}
        self.requests: list[str] = []
        self.everything: list[Object] = []
        """all pods there ever were, in order"""
        self.lock = threading.RLock()
        self.number = 0
        self.folder.mkdir(parents=True, exist_ok=True)
        self.kubelet = Kubelet(self._ended)
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

    # what tests do to it

    def pods(self, *phases: str) -> list[Object]:
        with self.lock:
            return [pod for pod in self.objects["pods"].values() if not phases or pod["status"]["phase"] in phases]

    def kill(self, pod: Object) -> None:
        """SIGKILL, as by the out-of-memory killer."""
        self.kubelet.signal(pod["metadata"]["name"], signal.SIGKILL)

    def evict(self, pod: Object) -> None:
        """As the eviction API does before it drains a node, or a cloud that takes a spot node back."""
        with self.lock:
            self._condition(pod, "DisruptionTarget", "True", reason="EvictionByEvictionAPI", message="evicted")
        self.kubelet.signal(pod["metadata"]["name"], signal.SIGTERM)
        self.kubelet.signal(pod["metadata"]["name"], signal.SIGKILL)

    # the API

    def create(self, kind: str, body: Object) -> Object:
        try:
            kubernetes_validate.validate(body, VERSION, strict=True)
        except kubernetes_validate.ValidationError as error:
            raise Refused(422, str(error)) from None
        if kind == "jobs":
            check_job(body)
        name = body["metadata"]["name"]
        with self.lock:
            if name in self.objects[kind]:
                raise Refused(409, f"{kind} {name} already exists")
            self.number += 1
            body["metadata"].update(uid=f"uid-{self.number}", creationTimestamp=now())
            body["status"] = {}
            self.objects[kind][name] = body
            return body

    def delete(self, kind: str, name: str) -> Object:
        with self.lock:
            deleted = self.read(kind, name)
            del self.objects[kind][name]
            if kind == "jobs":
                for pod in self._pods_of(deleted):
                    self._remove(pod)
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

    def list(self, kind: str, selector: str) -> Object:
        wanted = dict(part.split("=", 1) for part in selector.split(",") if part)
        with self.lock:
            items = [
                each
                for each in self.objects[kind].values()
                if wanted.items() <= each["metadata"].get("labels", {}).items()
            ]
            return {"kind": "List", "apiVersion": "v1", "metadata": {}, "items": items}

    def log(self, name: str, tail: int | None) -> str:
        self.read("pods", name)
        path = self.folder / f"{name}.log"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return "".join(lines[-tail:] if tail else lines)

    # the Job controller

    def _control(self) -> None:
        while not self.closing.wait(TICK_SECONDS):
            with self.lock:
                for job in list(self.objects["jobs"].values()):
                    self._reconcile(job)
                for pod in self.pods("Pending"):
                    self._schedule(pod)

    def _pods_of(self, job: Object) -> list[Object]:
        uid = job["metadata"]["uid"]
        return [pod for pod in self.objects["pods"].values() if pod["metadata"]["ownerReferences"][0]["uid"] == uid]

    def _reconcile(self, job: Object) -> None:
        spec, status = job["spec"], job["status"]
        if any(condition["type"] in {"Complete", "Failed"} for condition in status.get("conditions", [])):
            return
        pods = self._pods_of(job)
        live = [pod for pod in pods if pod["status"]["phase"] in {"Pending", "Running"}]
        done = {index_of(pod) for pod in pods if pod["status"]["phase"] == "Succeeded"}
        failures: dict[int, int] = {}
        for pod in pods:
            if pod["status"]["phase"] == "Failed":
                action = action_of(job, pod)
                if action == "FailJob":
                    code = exit_code(pod)
                    self._fail(job, "PodFailurePolicy", f"pod {pod['metadata']['name']} failed with exit code {code}")
                    return
                failures[index_of(pod)] = failures.get(index_of(pod), 0) + (action != "Ignore")
        limit = spec.get("backoffLimitPerIndex")
        if limit is None and sum(failures.values()) > spec.get("backoffLimit", 6):
            self._fail(job, "BackoffLimitExceeded", "Job has reached the specified backoff limit")
            return
        failed = {index for index, count in failures.items() if limit is not None and count > limit}
        if spec.get("suspend"):
            for pod in live:
                self._remove(pod)
            live = []
        else:
            busy = {index_of(pod) for pod in live}
            for index in range(spec["completions"]):
                if len(live) < spec["parallelism"] and index not in done | failed | busy:
                    live.append(self._create_pod(job, index, failures.get(index, 0)))
            for pod in live[spec["parallelism"] :]:
                self._remove(pod)
        status.update(
            active=len(live),
            ready=sum(pod["status"]["phase"] == "Running" for pod in live),
            succeeded=len(done),
            failed=sum(pod["status"]["phase"] == "Failed" for pod in pods),
            completedIndexes=",".join(map(str, sorted(done))),
            failedIndexes=",".join(map(str, sorted(failed))),
        )
        if len(done) == spec["completions"]:
            status["conditions"] = [{"type": "Complete", "status": "True", "lastTransitionTime": now()}]
        elif len(done | failed) == spec["completions"]:
            self._fail(job, "FailedIndexes", "Job has failed indexes")

    def _fail(self, job: Object, reason: str, message: str) -> None:
        for pod in self._pods_of(job):
            if pod["status"]["phase"] in {"Pending", "Running"}:
                self._remove(pod)
        failed = {"type": "Failed", "status": "True", "reason": reason, "message": message, "lastTransitionTime": now()}
        job["status"].update(active=0, ready=0, conditions=[failed])

    def _create_pod(self, job: Object, index: int, failures: int) -> Object:
        self.number += 1
        template, name = job["spec"]["template"], job["metadata"]["name"]
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"{name}-{index}-{self.number:05d}",
                "labels": {**template["metadata"].get("labels", {}), NAME: name, INDEX: str(index)},
                "annotations": {INDEX: str(index)},
                "uid": f"uid-{self.number}",
                "creationTimestamp": now(),
                "ownerReferences": [
                    {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": job["metadata"]["uid"]}
                ],
            },
            "spec": json.loads(json.dumps(template["spec"])),
            "status": {"phase": "Pending", "conditions": [], "failures": failures},
        }
        self.objects["pods"][pod["metadata"]["name"]] = pod
        self.everything.append(pod)
        return pod

    def _remove(self, pod: Object) -> None:
        self.kubelet.signal(pod["metadata"]["name"], signal.SIGKILL)
        pod["status"]["phase"] = "Failed"
        self.objects["pods"].pop(pod["metadata"]["name"], None)

    # the scheduler and the node

    def _schedule(self, pod: Object) -> None:
        wanted = gpus_of(pod)
        for node, gpus in self.nodes.items():
            used = sum(gpus_of(other) for other in self.pods("Running") if other["spec"].get("nodeName") == node)
            if used + wanted <= gpus:
                pod["spec"]["nodeName"] = node
                self._condition(pod, "PodScheduled", "True")
                pod["status"]["phase"] = "Running"
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
        env = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
        index = pod["metadata"]["annotations"][INDEX]
        for entry in [*container.get("env", []), {"name": "JOB_COMPLETION_INDEX", "value": index}]:
            value = entry.get("value", index)  # the only field that is referred to is the index
            env[entry["name"]] = re.sub(r"^/scratch", str(scratch), value)
        host = rf"{re.escape(name.rpartition('-')[0].rpartition('-')[0])}-\d+\.{re.escape(spec.get('subdomain', '-'))}"
        command = [re.sub(host, "127.0.0.1", word) for word in container["command"]]
        self.kubelet.start(name, command, env, self.folder / f"{name}.log", self.faults.gate(pod))

    def _ended(self, name: str, code: int) -> None:
        with self.lock:
            pod = self.objects["pods"].get(name)
            if pod is None:
                return
            pod["status"]["phase"] = "Failed" if code else "Succeeded"
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


def index_of(pod: Object) -> int:
    return int(pod["metadata"]["annotations"][INDEX])


def gpus_of(pod: Object) -> int:
    return int(pod["spec"]["containers"][0]["resources"].get("limits", {}).get("nvidia.com/gpu", 0))


def exit_code(pod: Object) -> int:
    return int(pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"])


def action_of(job: Object, pod: Object) -> str:
    """What the pod failure policy makes of a failed pod: the first rule that fits."""
    has = {condition["type"] for condition in pod["status"]["conditions"] if condition["status"] == "True"}
    for rule in job["spec"].get("podFailurePolicy", {}).get("rules", []):
        if any(pattern["type"] in has for pattern in rule.get("onPodConditions", [])):
            return str(rule["action"])
        codes = rule.get("onExitCodes")
        if codes and (exit_code(pod) in codes["values"]) == (codes["operator"] == "In"):
            return str(rule["action"])
    return "Count"


def check_job(job: Object) -> None:
    """Rules of the API server that no schema holds."""
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    names = [job["metadata"]["name"], *(volume["name"] for volume in pod["volumes"])]
    wrong = [name for name in names if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name)]
    if wrong:
        raise Refused(422, f"{wrong}: not a DNS label")
    if spec["completionMode"] != "Indexed" or pod["restartPolicy"] != "Never":
        raise Refused(422, "only Indexed Jobs that never restart a container are known here")
    if "podFailurePolicy" in spec and spec.get("podReplacementPolicy", "Failed") != "Failed":
        raise Refused(422, "podReplacementPolicy: only 'Failed' goes with podFailurePolicy")
    containers = {container["name"]: container for container in pod["containers"]}
    for rule in spec.get("podFailurePolicy", {}).get("rules", []):
        if len({"onExitCodes", "onPodConditions"} & set(rule)) != 1:
            raise Refused(422, "a rule has exactly one of onExitCodes and onPodConditions")
        if "onExitCodes" in rule and rule["onExitCodes"]["containerName"] not in containers:
            raise Refused(422, "onExitCodes names no container")
    volumes = [volume["name"] for volume in pod["volumes"]]
    for container in containers.values():
        if any(mount["name"] not in volumes for mount in container["volumeMounts"]):
            raise Refused(422, "volumeMounts name no volume")
        for resource, value in container["resources"]["limits"].items():
            if "/" in resource and container["resources"]["requests"].get(resource) != value:
                raise Refused(422, f"{resource}: requests and limits must be equal")


class _Handler(BaseHTTPRequestHandler):
    cluster: FakeCluster
    protocol_version = "HTTP/1.1"
    PATH = re.compile(
        r"/(?:api/v1|apis/batch/v1)/namespaces/[^/]+/(?P<kind>jobs|pods|services)(?:/(?P<name>[^/]+)(?P<log>/log)?)?"
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
            return self._say(refused.status, str(refused))
        status = self.cluster.faults.lose(self.command, url.path)
        if status:
            return self._say(status, "the answer was lost")
        if isinstance(answer, str):
            self._send(200, answer, "text/plain")
        else:
            self._send(200, json.dumps(answer))

    def _do(self, path: str, query: dict[str, str], body: Object) -> Object | str:
        found = self.PATH.fullmatch(path)
        if not found:
            raise Refused(404, f"{path} is not known here")
        kind, name = found["kind"], found["name"]
        with self.cluster.lock:
            answer: Object | str
            if found["log"]:
                answer = self.cluster.log(name, int(query["tailLines"]) if "tailLines" in query else None)
            elif self.command == "POST":
                answer = self.cluster.create(kind, body)
            elif self.command == "DELETE":
                answer = self.cluster.delete(kind, name)
            elif self.command == "PATCH":
                answer = self.cluster.patch(kind, name, body)
            elif name:
                answer = self.cluster.read(kind, name)
            else:
                answer = self.cluster.list(kind, query.get("labelSelector", ""))
            return answer if isinstance(answer, str) else json.loads(json.dumps(answer))

    do_GET = do_POST = do_DELETE = do_PATCH = _handle

    def _say(self, status: int, message: str) -> None:
        body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status, "message": message}
        self._send(status, json.dumps(body))

    def _send(self, status: int, text: str, kind: str = "application/json") -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass
