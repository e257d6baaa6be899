"""A group on 4 pods of the fake cluster with a throttled bucket has the manifests of one machine."""

from collections import Counter

import pytest
import yaml

from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.executors import executor_of
from mobileclip2.store import lease, s3
from tests.cluster import FakeCluster
from tests.faults import gate
from tests.s3 import FaultyS3
from tests.tiny import make_tiny

pytestmark = pytest.mark.slow

ASSET, GROUP = "teacher_embeddings/wide/image", "g00"
SHARDS, VIEWS, PODS = 4, 2, 4


def prepare(profile):
    pipeline = Pipeline(load(profile))
    for asset in ("raw_shards", "augmentations"):
        pipeline.materialize(asset, GROUP)
    pipeline.materialize("teacher/wide")
    return pipeline


def manifests(pipeline):
    keys = [key for key, _ in pipeline.storage.list(f"{ASSET}/") if key.endswith("manifest.json")]
    return {key: pipeline.storage.read(key) for key in keys}


def test_a_group_finishes_with_half_of_the_requests_throttled(tmp_path, monkeypatch):
    monkeypatch.setenv("MOBILECLIP2_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("mobileclip2.executors.kubernetes.POLL_SECONDS", 0.1)
    # the values that `hasten` sets in the pods, which expect the lease to be renewed as often
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.5)
    monkeypatch.setattr(s3, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.01)
    profile = make_tiny(tmp_path / "tiny", shards=2 * SHARDS, samples=4)
    alone = prepare(profile)
    alone.materialize(ASSET, GROUP)
    with FaultyS3() as server, FakeCluster(tmp_path / "cluster", {"one": PODS}) as cluster:
        for name, value in {**server.env, "KUBECONFIG": str(cluster.kubeconfig)}.items():
            monkeypatch.setenv(name, value)
        server.create_bucket("throttled")
        values = yaml.safe_load(profile.read_text())
        stages = {"teacher_embeddings": {"pods": PODS, "gpus": 1}}
        kubernetes = {"image": "tests", "env": server.env, "stages": stages}
        values.update(store="s3://throttled/store", compute={"kubernetes": kubernetes})
        in_bucket = profile.with_name("bucket.yaml")
        in_bucket.write_text(yaml.safe_dump(values))
        prepare(in_bucket)

        notes = tmp_path / "notes"
        notes.mkdir()
        cluster.faults.gate = lambda pod: gate([], notes, "")
        server.reset(lambda request: "503" if request.number % 2 else None)
        loaded = load(in_bucket)
        Pipeline(loaded, executor_of(loaded)).materialize(ASSET, GROUP)
        stored = Counter(
            request.path
            for request in server.requests
            if request.method == "PUT" and request.path.endswith(".parquet") and not request.number % 2
        )
        print(
            f"{len(server.requests) // 2} of {len(server.requests)} requests refused, {len(stored)} files, {stored.total()} puts"
        )
        assert len(cluster.everything) == PODS
        assert stored.total() == len(stored) == SHARDS * VIEWS, "a shard was computed twice"
        server.reset()
        assert manifests(Pipeline(loaded)) == manifests(alone)
