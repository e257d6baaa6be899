"""Metrics of the task batches that a run has on a cluster, for Prometheus.

The executors record into :func:`watch`. The metrics are served by the process of the run, because it already polls the Jobs and
counts the finished shards.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mobileclip2.config.compute import Metrics
from mobileclip2.engine.pipeline import TaskBatch
from mobileclip2.extras import needs

logger = logging.getLogger(__name__)


@dataclass
class BatchMetrics:
    """The metrics of one task batch. Counters start at 0 with the process."""

    stage: str
    asset: str
    group: str
    shards: int = 0
    shards_finished: int = 0
    samples: float = 0.0
    """samples of the shards that were finished while the process watched"""
    steps: int = 0
    steps_finished: int = 0
    gpus_per_pod: int = 0
    gpus: int = 0
    """GPUs of the running pods"""
    gpu_seconds: float = 0.0
    pod_seconds: float = 0.0
    retries: int = 0
    """pods, array tasks or trainings that were started again"""
    oldest_start: float | None = None
    """UNIX time when the oldest running pod or array task started"""

    @property
    def oldest_chunk_seconds(self) -> float:
        """Return the time since the oldest running pod or array task started, or 0 if none runs."""
        return max(0.0, time.time() - self.oldest_start) if self.oldest_start else 0.0

    def running(self, pods: int, seconds: float) -> None:
        """Record the running pods, and the seconds since the last call."""
        self.gpus = pods * self.gpus_per_pod
        self.gpu_seconds += self.gpus * seconds
        self.pod_seconds += pods * seconds

    def end(self) -> None:
        """Record that no pod runs any more."""
        self.gpus, self.oldest_start = 0, None


_watched: dict[tuple[str, str], BatchMetrics] = {}
_served: set[tuple[str, int]] = set()
_lock = threading.Lock()


def watch(batch: TaskBatch) -> BatchMetrics:
    """Return the metrics of a batch. The first call of a process starts the server if the profile sets ``compute.metrics``."""
    settings = batch.profile.compute.metrics
    asset, group = str(batch.asset.key), batch.group or ""
    with _lock:
        if settings and (settings.host, settings.port) not in _served:
            _served.add((settings.host, settings.port))
            _serve(settings)
        return _watched.setdefault((asset, group), BatchMetrics(batch.asset.stage, asset, group))


def _serve(settings: Metrics) -> None:
    with needs("metrics"):
        from prometheus_client import CollectorRegistry, start_http_server
    registry = CollectorRegistry()
    registry.register(_Collector())
    try:
        start_http_server(settings.port, settings.host, registry)
    except OSError as error:  # another run of this machine has the port; its work matters more than its metrics
        logger.warning("no metrics of this process at %s:%s: %s", settings.host, settings.port, error)


GAUGES = {
    "shards": "Shards of the task batch",
    "shards_finished": "Shards in the store",
    "steps": "Steps of the training",
    "steps_finished": "Steps that the training has taken",
    "gpus": "GPUs of the running pods",
    "oldest_chunk_seconds": "Time since the oldest running pod or array task started",
}
COUNTERS = {
    "samples": "Samples of finished shards",
    "gpu_seconds": "GPUs of the running pods times seconds",
    "retries": "Pods, array tasks or trainings that were started again",
}
"""help text of each metric; its value is the attribute of :class:`BatchMetrics` with this name"""


class _Collector:
    """Makes the metrics at each scrape, so that ages are current."""

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        with _lock:
            batches = list(_watched.values())
        families: list[tuple[Any, dict[str, str]]] = [(GaugeMetricFamily, GAUGES), (CounterMetricFamily, COUNTERS)]
        for family, metrics in families:
            for name, text in metrics.items():
                made = family(f"mobileclip2_{name}", text, labels=["stage", "asset", "group"])
                for each in batches:
                    made.add_metric([each.stage, each.asset, each.group], getattr(each, name))
                yield made
