"""Requests to an API server on loopback that answers with given statuses. ``test_kubernetes.py`` tests whole Jobs."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from kubernetes import client

from mobileclip2.errors import ComputeError
from mobileclip2.executors.cluster import Cluster

JOB: dict[str, Any] = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"}}


class Api(ThreadingHTTPServer):
    """Answers requests with ``statuses`` in turn, and repeats the last one."""

    daemon_threads = True

    def __init__(self) -> None:
        self.statuses = [200]
        self.requests: list[str] = []
        self.queries: list[str] = []
        self.tokens: list[str | None] = []
        self.body = json.dumps(JOB).encode()
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    server: Api

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        statuses = self.server.statuses
        self.server.tokens.append(self.headers.get("Authorization"))
        self.server.requests.append(f"{self.command} {self.path.partition('?')[0]}")
        self.server.queries.append(self.path.partition("?")[2])
        self.send_response(statuses.pop(0) if len(statuses) > 1 else statuses[0])
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    do_GET = do_POST = do_DELETE = answer

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def api() -> Iterator[Api]:
    with Api() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def cluster(api: Api) -> Cluster:
    configuration = client.Configuration(host=f"http://127.0.0.1:{api.server_address[1]}")
    configuration.retries = False
    return Cluster("ours", log_in=lambda: client.ApiClient(configuration), patience=5, pause=0.001)


@pytest.mark.parametrize("status", [409, 429, 500, 502, 503, 504])
def test_a_temporary_error_is_retried(cluster: Cluster, api: Api, status: int) -> None:
    api.statuses = [status, status, 200]
    job = cluster.read("Job", "j")
    assert job is not None and job.metadata.name == "j"
    assert api.requests == ["GET /apis/batch/v1/namespaces/ours/jobs/j"] * 3


def test_an_object_that_does_not_exist_is_none(cluster: Cluster, api: Api) -> None:
    api.statuses = [404]
    assert cluster.read("Job", "j") is None and cluster.pods("j") == []
    cluster.delete("Job", "j")
    cluster.delete("Service", "s")


def test_a_job_that_exists_is_not_created_again(cluster: Cluster, api: Api) -> None:
    api.statuses, job = [503, 409], api.body
    api.body = json.dumps({"kind": "Status", "reason": "AlreadyExists"}).encode()
    assert cluster.create(JOB) is False
    api.statuses, api.body = [201], job
    assert cluster.create(JOB) is True
    assert api.requests == ["POST /apis/batch/v1/namespaces/ours/jobs"] * 3


def test_a_namespace_that_does_not_exist_is_an_error(cluster: Cluster, api: Api) -> None:
    api.statuses = [404]
    with pytest.raises(ComputeError, match="no namespace 'ours', or its API has no Job; create it, or correct"):
        cluster.create(JOB)


def test_a_conflict_of_a_quota_is_retried(cluster: Cluster, api: Api) -> None:
    """The API server answers 409 while another request changes the usage of a quota."""
    api.statuses = [409, 409, 201]
    api.body = json.dumps({**JOB, "reason": "Conflict"}).encode()
    assert cluster.create(JOB) is True and len(api.requests) == 3


def test_credentials_are_read_again_after_a_401(api: Api) -> None:
    tokens = iter(["old", "new"])

    def log_in() -> client.ApiClient:
        configuration = client.Configuration(host=f"http://127.0.0.1:{api.server_address[1]}")
        configuration.api_key["authorization"] = next(tokens)
        return client.ApiClient(configuration)

    cluster = Cluster("ours", log_in=log_in, patience=5, pause=0.001)
    api.statuses = [401, 201]
    assert cluster.create(JOB) is True
    assert api.tokens == ["old", "new"]


def test_refusals_are_the_messages_of_events(cluster: Cluster, api: Api) -> None:
    event = {"message": "Error creating: no", "metadata": {"name": "e"}, "involvedObject": {}}
    api.body = json.dumps({"kind": "EventList", "apiVersion": "v1", "items": [event]}).encode()
    assert cluster.refusals("u") == ["Error creating: no"]
    api.statuses = [404]
    assert cluster.refusals("u") == []


def test_a_refusal_names_the_namespace_and_is_not_retried(cluster: Cluster, api: Api) -> None:
    api.statuses = [403]
    with pytest.raises(ComputeError, match=r"refused a request in namespace 'ours': it answered 403: .*check 'compute"):
        cluster.read("Job", "j")
    assert len(api.requests) == 1


def test_an_unreachable_server_is_an_error_after_the_patience(cluster: Cluster, api: Api) -> None:
    api.statuses = [503]
    cluster.patience = 0.4
    with pytest.raises(ComputeError, match=r"API server was unreachable for 0 s: it answered 503"):
        cluster.read("Job", "j")
    assert len(api.requests) > 1


def test_a_failed_log_request_is_not_retried(cluster: Cluster, api: Api) -> None:
    api.statuses = [500]
    assert cluster.log_tail("p") == "" and len(api.requests) == 1
    api.statuses, api.body = [200], b"caf\xc3\xa9 \xff\n"
    assert cluster.log_tail("p") == "café �\n"


def test_a_missing_cluster_configuration_error_suggests_kubeconfig(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "missing"))
    with pytest.raises(ComputeError, match=r"no cluster is configured here.*run inside a cluster, or set KUBECONFIG"):
        Cluster("ours")


def test_create_requests_strict_field_validation(api: Api, cluster: Cluster) -> None:
    cluster.create(JOB)
    assert "fieldValidation=Strict" in api.queries[-1], "the server's default drops them with a warning"
