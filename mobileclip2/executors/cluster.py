"""Requests to a Kubernetes API server, with retries."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from mobileclip2.errors import ComputeError
from mobileclip2.executors.manifests import INDEX_LABEL, UID_LABEL, Manifest
from mobileclip2.extras import needs

with needs("k8s"):
    from kubernetes import client
    from kubernetes import config as kubeconfig
    from urllib3.exceptions import HTTPError

T = TypeVar("T")

RETRIED_STATUSES = {401, 409, 429, 500, 502, 503, 504}
"""HTTP statuses to retry; 401 after the credentials were read again, because tokens expire"""

JOBSETS = {"group": "jobset.x-k8s.io", "version": "v1alpha2", "plural": "jobsets"}
"""JobSet API, 0.10 or newer"""

REQUEST_SECONDS = 30
MAX_PAUSE = 30.0
DELETE_SECONDS = 60.0
"""patience of deletions: Kubernetes itself deletes finished Jobs later"""


def read_configuration() -> client.ApiClient:
    """Read the cluster of ``KUBECONFIG``, of this pod, or of ``~/.kube/config``, in this order.

    Raises:
        ComputeError: no cluster is configured.
    """
    configuration = client.Configuration()
    path = os.environ.get("KUBECONFIG")  # the client library reads KUBECONFIG at import only
    try:
        if "KUBERNETES_SERVICE_HOST" in os.environ and not path:
            kubeconfig.load_incluster_config(client_configuration=configuration)
        else:
            kubeconfig.load_kube_config(path, client_configuration=configuration)
    except (kubeconfig.ConfigException, OSError) as error:
        raise ComputeError(
            f"compute.kubernetes: no cluster is configured here ({error}); run inside a cluster, or set KUBECONFIG"
        ) from None
    return client.ApiClient(configuration)


class Cluster:
    """One namespace of a cluster.

    Every method retries for up to ``patience`` seconds while the server is unreachable.

    Raises:
        ComputeError: no cluster is configured, the server stays unreachable, or rejects the request.
    """

    def __init__(
        self,
        namespace: str,
        *,
        log_in: Callable[[], client.ApiClient] = read_configuration,
        patience: float = 900.0,
        pause: float = 1.0,
    ) -> None:
        self.namespace = namespace
        self.patience = patience
        self.pause = pause
        self._log_in = log_in
        self._use(log_in())

    def _use(self, api: client.ApiClient) -> None:
        jobs, self._core, custom = client.BatchV1Api(api), client.CoreV1Api(api), client.CustomObjectsApi(api)
        self._create = {
            "Job": jobs.create_namespaced_job,
            "Service": self._core.create_namespaced_service,
            "JobSet": partial(custom.create_namespaced_custom_object, **JOBSETS),
        }
        self._read = {
            "Job": jobs.read_namespaced_job,
            "Service": self._core.read_namespaced_service,
            "JobSet": partial(custom.get_namespaced_custom_object, **JOBSETS),
        }
        self._delete = {
            "Job": jobs.delete_namespaced_job,
            "Service": self._core.delete_namespaced_service,
            "JobSet": partial(custom.delete_namespaced_custom_object, **JOBSETS),
        }

    def create(self, manifest: Manifest) -> bool:
        """Create a Job, a Service or a JobSet. Return False if an object of this kind and name exists.

        That object can be our own: a retry follows when the answer to a successful request is lost.
        """

        def attempt(**options: Any) -> bool:
            try:
                # by default the API server drops unknown fields, such as a misspelt one of a pod template
                self._create[manifest["kind"]](body=manifest, field_validation="Strict", **options)
            except client.ApiException as error:
                if error.status == 409 and _reason(error) == "AlreadyExists":  # a quota can answer 409 too
                    return False
                raise
            return True

        created = self._with_retries(attempt)
        if created is None:
            raise ComputeError(
                f"compute.kubernetes: the cluster has no namespace '{self.namespace}', or its API has no {manifest['kind']}; "
                "create it, or correct 'namespace'"
            )
        return created

    def read(self, kind: str, name: str) -> Any | None:
        """Return a ``V1Job``, a ``V1Service`` or a JobSet as JSON, or None if it does not exist."""
        return self._with_retries(lambda **options: self._read[kind](name=name, **options))

    def delete(self, kind: str, name: str) -> None:
        """Delete an object and what it owns, if it exists."""
        self._with_retries(
            lambda **options: self._delete[kind](name=name, propagation_policy="Background", **options),
            DELETE_SECONDS,
        )

    def refusals(self, uid: str) -> list[str]:
        """Return why the API server refused to create pods of a Job: the messages of its ``FailedCreate`` events."""
        selector = f"involvedObject.uid={uid},reason=FailedCreate"
        listed = self._with_retries(
            lambda **options: self._core.list_namespaced_event(field_selector=selector, **options)
        )
        return [event.message or "" for event in listed.items] if listed else []

    def pods(self, uid: str, index: int | None = None) -> list[Any]:
        """Return the ``V1Pod`` list of the Job with this uid, or of one of its indexes.

        An earlier Job of the same name can have pods that still terminate.
        """
        selector = f"{UID_LABEL}={uid}" + (f",{INDEX_LABEL}={index}" if index is not None else "")
        listed = self._with_retries(
            lambda **options: self._core.list_namespaced_pod(label_selector=selector, **options)
        )
        return list(listed.items) if listed else []

    def log_tail(self, pod: str, lines: int = 50) -> str:
        """Return the end of a pod's log, or an empty string if the log is unavailable."""
        try:
            answer = self._core.read_namespaced_pod_log(
                pod,
                self.namespace,
                tail_lines=lines,
                _request_timeout=REQUEST_SECONDS,
                _preload_content=False,  # some versions of the client otherwise return the repr of the bytes
            )
            return bytes(answer.data).decode(errors="replace")
        except (client.ApiException, HTTPError):
            return ""  # logs only improve messages, so they are not retried

    def _with_retries(self, request: Callable[..., T], patience: float = math.inf) -> T | None:
        """Send a request with retries. Return None if the object does not exist."""
        patience = min(patience, self.patience)
        pause, deadline = self.pause, time.monotonic() + patience
        while True:
            try:
                return request(namespace=self.namespace, _request_timeout=REQUEST_SECONDS)
            except client.ApiException as error:
                if error.status == 404:
                    return None
                problem = f"it answered {error.status}: {(error.body or error.reason or '')[:500]}"
                if error.status == 401:
                    self._use(self._log_in())
                if error.status not in RETRIED_STATUSES:
                    raise ComputeError(
                        f"the cluster refused a request in namespace '{self.namespace}': {problem}; "
                        "check 'compute.kubernetes' and the permissions of this service account"
                    ) from None
            except HTTPError as error:
                problem = str(error)
            if time.monotonic() + pause > deadline:
                raise ComputeError(
                    f"the cluster's API server was unreachable for {patience:.0f} s: {problem}; run again when it responds, "
                    "finished shards are kept"
                )
            time.sleep(pause)
            pause = min(pause * 2, MAX_PAUSE)


def _reason(error: client.ApiException) -> str:
    """Return the reason of an API server's refusal, such as ``AlreadyExists``."""
    try:
        return str(json.loads(error.body or "{}").get("reason", ""))
    except (ValueError, AttributeError):
        return ""
