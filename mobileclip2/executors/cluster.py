"""The few requests that are made of a Kubernetes API server, repeated while it is away."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from typing import Any, TypeVar

from mobileclip2.errors import ComputeError
from mobileclip2.executors.manifests import INDEX_LABEL, JOB_LABEL, Manifest
from mobileclip2.extras import needs

with needs("k8s"):
    from kubernetes import client
    from kubernetes import config as kubeconfig
    from urllib3.exceptions import HTTPError

T = TypeVar("T")

PASSING = {409, 429, 500, 502, 503, 504}
"""statuses of a server that may answer better a moment later; for 409 see :class:`_Exists`"""

REQUEST_SECONDS = 30
LONGEST_PAUSE = 30.0
CLEANING_SECONDS = 60.0
"""for deleting: what is left behind goes by itself some time after it ends"""


class Cluster:
    """One namespace of a cluster.

    Every method waits for a server that is away, up to ``patience`` seconds.

    Raises:
        ComputeError: the server stayed away, or refused the request.
    """

    def __init__(self, api: client.ApiClient, namespace: str, *, patience: float = 900.0, pause: float = 1.0) -> None:
        self.namespace = namespace
        self.patience = patience
        self.pause = pause
        self._jobs = client.BatchV1Api(api)
        self._core = client.CoreV1Api(api)

    @classmethod
    def connect(cls, namespace: str) -> Cluster:
        """Connect to the cluster of ``KUBECONFIG``, else that of this pod, else that of the user's own file.

        Raises:
            ComputeError: there is none.
        """
        configuration = client.Configuration()
        path = os.environ.get("KUBECONFIG")  # the package's own default is what it was on import
        try:
            if "KUBERNETES_SERVICE_HOST" in os.environ and not path:
                kubeconfig.load_incluster_config(client_configuration=configuration)
            else:
                kubeconfig.load_kube_config(path, client_configuration=configuration)
        except (kubeconfig.ConfigException, OSError) as error:
            raise ComputeError(
                f"compute.kubernetes: no cluster is configured here ({error}); run inside of one, or set KUBECONFIG"
            ) from None
        return cls(client.ApiClient(configuration), namespace)

    def create_job(self, manifest: Manifest) -> bool:
        """Create a Job. Return False if one of this name exists.

        It may be our own, because an answer may be lost after the work was done.
        """
        return self._create(self._jobs.create_namespaced_job, manifest)

    def create_service(self, manifest: Manifest) -> bool:
        """Create a Service. Return False if one of this name exists."""
        return self._create(self._core.create_namespaced_service, manifest)

    def job(self, name: str) -> Any | None:
        """Return the ``V1Job``, or None."""
        return self._patiently(
            lambda: self._jobs.read_namespaced_job(name, self.namespace, _request_timeout=REQUEST_SECONDS)
        )

    def pods(self, job: str, index: int | None = None) -> list[Any]:
        """Return the ``V1Pod`` of a Job, or of one index of it."""
        selector = f"{JOB_LABEL}={job}" + (f",{INDEX_LABEL}={index}" if index is not None else "")
        found = self._patiently(
            lambda: self._core.list_namespaced_pod(
                self.namespace, label_selector=selector, _request_timeout=REQUEST_SECONDS
            )
        )
        return list(found.items) if found else []

    def log_tail(self, pod: str, lines: int = 50) -> str:
        """Return the end of a pod's log. It is empty if the pod is gone or its node is away."""
        try:
            answer = self._core.read_namespaced_pod_log(
                pod,
                self.namespace,
                tail_lines=lines,
                _request_timeout=REQUEST_SECONDS,
                _preload_content=False,  # else some versions of the client give the bytes' repr
            )
            return bytes(answer.data).decode(errors="replace")
        except (client.ApiException, HTTPError):
            return ""  # a log is never worth waiting for

    def delete_job(self, name: str) -> None:
        """Delete a Job and its pods, if there are any."""
        self._patiently(
            lambda: self._jobs.delete_namespaced_job(
                name, self.namespace, propagation_policy="Background", _request_timeout=REQUEST_SECONDS
            ),
            CLEANING_SECONDS,
        )

    def delete_service(self, name: str) -> None:
        """Delete a Service, if there is one."""
        self._patiently(
            lambda: self._core.delete_namespaced_service(name, self.namespace, _request_timeout=REQUEST_SECONDS),
            CLEANING_SECONDS,
        )

    def _create(self, create: Callable[..., Any], manifest: Manifest) -> bool:
        try:
            self._patiently(lambda: self._create_once(create, manifest))
        except _Exists:
            return False
        return True

    def _create_once(self, create: Callable[..., Any], manifest: Manifest) -> None:
        try:
            create(self.namespace, manifest, _request_timeout=REQUEST_SECONDS)
        except client.ApiException as error:
            if error.status == 409:
                raise _Exists from None
            raise

    def _patiently(self, request: Callable[[], T], patience: float = math.inf) -> T | None:
        """Return the answer, or None if the object does not exist."""
        patience = min(patience, self.patience)
        pause, deadline = self.pause, time.monotonic() + patience
        while True:
            try:
                return request()
            except client.ApiException as error:
                if error.status == 404:
                    return None
                problem = f"it answered {error.status}: {(error.body or error.reason or '')[:500]}"
                if error.status not in PASSING:
                    raise ComputeError(
                        f"the cluster refused a request in namespace '{self.namespace}': {problem}; "
                        "check 'compute.kubernetes' and the rights of this service account"
                    ) from None
            except HTTPError as error:
                problem = str(error)
            if time.monotonic() + pause > deadline:
                raise ComputeError(
                    f"the cluster's API server stayed away for {patience:.0f} s: {problem}; run again when it is back, "
                    "finished shards are kept"
                )
            time.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)


class _Exists(Exception):
    """409 to a creation: somebody was faster, or the answer to our own earlier try was lost."""
