"""A Kubernetes cluster small enough for tests: the API over real HTTP on loopback, a Job controller, a scheduler that counts
GPUs, and pods that are processes of this machine.

It keeps to what the real one does with what we and Dagster ask of it: bodies are checked against the published schemas and
against the rules for Jobs; replacement pods come only when the old one has ended; ``backoffLimitPerIndex``, exit codes and
disruptions count as they should. It has no admission, no images, no network, no quota and no events. A path under the scratch
volume is a folder of the pod, the name of a pod is this machine, and ConfigMaps, Secrets and volumes are not there.
"""

from __future__ import annotations

import json
import os
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
from tests.ui.server import free_port

VERSION = "1.33"
TICK_SECONDS = 0.03
NAME = "batch.kubernetes.io/job-name"
OLD_NAME = "job-name"
"""what Dagster asks by; the controller sets both"""
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
    cut: Callable[[str, str], bool] = lambda method, path: False
    """whether the connection breaks in the middle of an answer"""
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
        self.ports: dict[str, int] = {}
        """where the pods of a Job meet"""
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
            body["spec"] = {**DEFAULTS, **body["spec"]}
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
            if kind == "pods":
                self._remove(deleted)
                return deleted
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

    def select(self, kind: str, labels: str, fields: str) -> Object:
        wanted, named = (dict(part.split("=", 1) for part in each.split(",") if part) for each in (labels, fields))
        if not named.keys() <= {"metadata.name"} and kind != "events":
            raise Refused(400, f"field label not supported: {fields}")
        with self.lock:
            items = [
                each
                for name, each in self.objects.get(kind, {}).items()
                if wanted.items() <= each["metadata"].get("labels", {}).items()
                and named.get("metadata.name", name) == name
            ]
            return {"kind": "List", "apiVersion": "v1", "metadata": {}, "items": items}

    def log(self, name: str, query: dict[str, str]) -> str:
        self.read("pods", name)
        path = self.folder / f"{name}.log"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        if query.get("timestamps") in {"true", "True", "1"}:  # Go takes all of them; the Python client sends the second
            lines = [f"{now()} {line}" for line in lines]
        return "".join(lines[-int(query["tailLines"]) :] if "tailLines" in query else lines)

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
        status.setdefault("startTime", now())
        status.update(
            active=len(live),
            ready=sum(pod["status"]["phase"] == "Running" for pod in live),
            succeeded=len(done),
            failed=sum(pod["status"]["phase"] == "Failed" for pod in pods),
            completedIndexes=",".join(map(str, sorted(done))),
            failedIndexes=",".join(map(str, sorted(failed))),
        )
        if spec["completionMode"] != "Indexed":
            del status["completedIndexes"], status["failedIndexes"]
        if len(done) == spec["completions"]:
            said = {"status": "True", "reason": "CompletionsReached", "lastTransitionTime": now()}
            status["conditions"] = [{"type": kind, **said} for kind in ("SuccessCriteriaMet", "Complete")]
            status["completionTime"] = now()
        elif len(done | failed) == spec["completions"]:
            self._fail(job, "FailedIndexes", "Job has failed indexes")

    def _fail(self, job: Object, reason: str, message: str) -> None:
        for pod in self._pods_of(job):
            if pod["status"]["phase"] in {"Pending", "Running"}:
                self._remove(pod)
        said = {"status": "True", "reason": reason, "message": message, "lastTransitionTime": now()}
        conditions = [{"type": kind, **said} for kind in ("FailureTarget", "Failed")]
        failed = sum(pod["status"]["phase"] == "Failed" for pod in self._pods_of(job))
        job["status"].update(active=0, ready=0, failed=failed, conditions=conditions)

    def _create_pod(self, job: Object, index: int, failures: int) -> Object:
        self.number += 1
        template, name = job["spec"]["template"], job["metadata"]["name"]
        indexed = job["spec"]["completionMode"] == "Indexed"
        number = {INDEX: str(index)} if indexed else {}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"{name}-{f'{index}-' if indexed else ''}{self.number:05d}",
                "labels": {**template["metadata"].get("labels", {}), NAME: name, OLD_NAME: name, **number},
                "annotations": number,
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
        if instructions := os.environ.get("ONEDNN_MAX_CPU_ISA"):  # trained weights depend on it
            env["ONEDNN_MAX_CPU_ISA"] = instructions
        index = str(index_of(pod))
        for entry in [*container.get("env", []), {"name": "JOB_COMPLETION_INDEX", "value": index}]:
            value = entry.get("value", index)  # the only field that is referred to is the index
            env[entry["name"]] = re.sub(r"^/scratch", str(scratch), value)
        host = rf"{re.escape(name.rpartition('-')[0].rpartition('-')[0])}-\d+\.{re.escape(spec.get('subdomain', '-'))}"
        # the image has no entry point
        words = [*container.get("command", []), *container.get("args", [])]
        command = [re.sub(host, "127.0.0.1", word) for word in words]
        # the pods of other trainings on this machine meet elsewhere
        job = pod["metadata"]["labels"][NAME]
        meets = f"--master-port={self.ports.setdefault(job, free_port())}"
        command = [meets if word.startswith("--master-port=") else word for word in command]
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


DEFAULTS: Object = {"completionMode": "NonIndexed", "completions": 1, "parallelism": 1}
"""of a Job, which the API server fills in"""


def index_of(pod: Object) -> int:
    return int(pod["metadata"]["annotations"].get(INDEX, 0))


def gpus_of(pod: Object) -> int:
    return int(pod["spec"]["containers"][0].get("resources", {}).get("limits", {}).get("nvidia.com/gpu", 0))


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
        for resource, value in resources.get("limits", {}).items():
            if "/" in resource and resources.get("requests", {}).get(resource) != value:
                raise Refused(422, f"{resource}: requests and limits must be equal")


class _Handler(BaseHTTPRequestHandler):
    cluster: FakeCluster
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each body waits 40 ms for its head to be acknowledged
    PATH = re.compile(
        r"/(?:api/v1|apis/batch/v1)/namespaces/[^/]+/(?P<kind>jobs|pods|services|events)"
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
            return self._say(refused.status, str(refused))
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

    def _say(self, status: int, message: str) -> None:
        body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status, "message": message}
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
