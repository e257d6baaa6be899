"""The metrics of a run over HTTP. ``test_kubernetes.py`` reads them during a run on a cluster."""

from __future__ import annotations

import json
import logging
import re
import socket
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from mobileclip2.config.compute import ComputeSettings, Metrics
from mobileclip2.executors.metrics import COUNTERS, GAUGES, BatchMetrics, watch
from tests.ui.server import free_port

MONITORING = Path(__file__).parents[3] / "k8s" / "monitoring"
NAMES = {*(f"mobileclip2_{name}" for name in GAUGES), *(f"mobileclip2_{name}_total" for name in COUNTERS)}


@pytest.fixture(autouse=True)
def empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mobileclip2.executors.metrics._watched", {})


def batch(metrics: Metrics | None, group: str | None = "g00") -> Any:
    profile = SimpleNamespace(compute=SimpleNamespace(metrics=metrics))
    return SimpleNamespace(profile=profile, group=group, asset=SimpleNamespace(key="raw_shards", stage="raw_shards"))


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def test_gpus_and_gpu_seconds_count_running_pods() -> None:
    metrics = BatchMetrics("s", "a", "g00", gpus_per_pod=8)
    metrics.running(2, 10.0)
    metrics.running(1, 10.0)
    assert (metrics.gpus, metrics.gpu_seconds, metrics.pod_seconds) == (8, 240.0, 30.0)
    metrics.oldest_start = 1.0
    assert metrics.oldest_chunk_seconds > 1e9
    metrics.end()
    assert (metrics.gpus, metrics.oldest_chunk_seconds, metrics.gpu_seconds) == (0, 0.0, 240.0)


def test_a_scrape_has_every_metric_of_every_batch() -> None:
    settings = Metrics(port=free_port())
    watch(batch(settings)).shards = 7
    watch(batch(settings, None)).retries += 2
    text = scrape(settings.port)
    assert 'mobileclip2_shards{asset="raw_shards",group="g00",stage="raw_shards"} 7.0' in text
    assert 'mobileclip2_retries_total{asset="raw_shards",group="",stage="raw_shards"} 2.0' in text
    assert set(re.findall(r"^(mobileclip2_\w+)\{", text, re.M)) == NAMES


def test_a_port_in_use_disables_metrics_without_failing_the_run(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, caplog.at_level(logging.WARNING):
        port = other.getsockname()[1]
        assert watch(batch(Metrics(port=port))).shards == 0
    assert f"no metrics of this process at 127.0.0.1:{port}" in caplog.text


def test_metrics_are_not_served_without_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mobileclip2.executors.metrics._serve", lambda settings: pytest.fail("it listens"))
    assert watch(batch(None)) is watch(batch(None))


def test_metrics_need_a_cluster_and_bind_to_loopback() -> None:
    assert Metrics().host == "127.0.0.1"
    with pytest.raises(ValidationError, match="set 'kubernetes' or 'slurm'"):
        ComputeSettings(metrics=Metrics())


def test_dashboard_and_alerts_query_existing_metrics() -> None:
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    groups = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert all({"alert", "expr", "for", "annotations"} <= set(rule) for rule in rules)
    found = set(re.findall(r"mobileclip2_\w+", " ".join([*asked, *(rule["expr"] for rule in rules)])))
    assert found <= NAMES and {f"mobileclip2_{name}_total" for name in COUNTERS} <= found
