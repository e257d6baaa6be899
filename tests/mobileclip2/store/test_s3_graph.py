"""The complete graph of the test profile runs in a bucket with repeated faults of each kind."""

from collections import Counter

import pytest
import torch
import yaml

from mobileclip2.config.profile import load
from mobileclip2.engine.lineage import LINEAGE
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.store import S3Storage
from tests.s3 import FAULTS

pytestmark = pytest.mark.slow

EVERY = 11
"""one request in this many has a fault; expired credentials are renewed at once"""


def content(pipeline):
    """Return the content of every artifact without versions of sources, which differ between ETags and hashes."""
    return {
        (read.summary.asset, read.summary.part, read.summary.group): (
            [file for file in read.manifest.files if file.name != LINEAGE],
            read.summary.samples,
            read.summary.skip_reasons,
            read.summary.facts,
        )
        for key in pipeline.graph
        for read in pipeline.read(key)
    }


def test_a_graph_with_faults_equals_an_undisturbed_one(s3, bucket, tmp_path, undisturbed):
    torch.set_num_threads(1)
    root = S3Storage(f"s3://{bucket}")
    for path in undisturbed.parent.rglob("*"):
        relative = path.relative_to(undisturbed.parent)
        if path.is_file() and relative.parts[0] in {"shards", "corpus", "evaluation", "weights"}:
            root.put(relative.as_posix(), path)
    values = yaml.safe_load(undisturbed.read_text())
    for place in [*values["sources"], *values["caption_corpora"], *values["evaluation"]]:
        place["url"] = f"s3://{bucket}/{place['url']}"
    for teacher in values["teachers"]:
        weights = teacher["model"]["weights"]
        weights["path"] = f"s3://{bucket}/{weights['path']}"
    values["store"] = f"s3://{bucket}/store"
    profile = tmp_path / "bucket.yaml"
    profile.write_text(yaml.safe_dump(values))

    struck = Counter()

    def often(request):
        number, left = divmod(request.number, EVERY)
        if left:
            return None
        fault = FAULTS[number % len(FAULTS)]
        struck[fault] += 1
        return fault

    s3.reset(often)
    pipeline = Pipeline(load(profile))
    for asset, group in pipeline.stale():
        pipeline.materialize(asset.key, group)
    assert set(struck) == set(FAULTS)
    print(f"{sum(struck.values())} of {len(s3.requests)} requests met a fault")
    s3.reset()
    pipeline.forget(every_byte=True)
    assert not list(pipeline.stale()) and not pipeline.damaged
    assert content(pipeline) == content(Pipeline(load(undisturbed)))
    assert not [key for key, _ in pipeline.storage.list(".leases/")]
