"""Choose the number of chunks of a group. A chunk takes about ten device-minutes."""

from __future__ import annotations

import math

from mobileclip2.engine.cost import Costs
from mobileclip2.engine.pipeline import TaskBatch

CHUNK_SECONDS = 600.0
"""target duration: long compared with loading a model, short enough that a lost process costs little"""

MAX_CHUNKS = 10_000
"""limit of one Job, because the API server stores the list of completed indexes"""

CHUNKS_A_PROCESS = 4
"""chunks per process if no rate is known; several, so that one slow chunk does not delay the end"""


def count_chunks(shards: int, seconds_a_shard: float | None, processes: int) -> int:
    """Return the number of chunks, between 1 and ``shards``.

    Args:
        seconds_a_shard: device-seconds per shard; None if unknown.
        processes: number of concurrent processes.
    """
    if seconds_a_shard is None:
        wanted = CHUNKS_A_PROCESS * processes
    else:
        wanted = math.ceil(shards * seconds_a_shard / CHUNK_SECONDS)
    return max(1, min(wanted, shards, MAX_CHUNKS))


def group_samples(batch: TaskBatch) -> int:
    """Return the samples of the batch's group from the manifests of its inputs, or 0 if unknown."""
    summaries = [
        artifact.summary for task in batch.tasks for artifacts in task.inputs.values() for artifact in artifacts
    ]
    return max((summary.samples for summary in summaries if summary.group == batch.group and batch.group), default=0)


def seconds_a_shard(batch: TaskBatch) -> float | None:
    """Estimate the device-seconds of all tasks for one shard. Return None if the rate or the sample count is unknown."""
    rate = Costs(batch.pipeline).rate(batch.asset)
    samples = group_samples(batch)
    if not rate or not samples or not batch.shards:
        return None
    return samples * len(batch.tasks) / rate / len(batch.shards)
