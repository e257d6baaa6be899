"""How many chunks a group is cut into: each is worth about ten minutes of a device."""

from __future__ import annotations

import math

from mobileclip2.engine.cost import Costs
from mobileclip2.engine.pipeline import TaskBatch

CHUNK_SECONDS = 600.0
"""long against the start of a process and the loading of a model, short against what a lost process takes with it"""

MAX_CHUNKS = 10_000
"""of one Job: the API server keeps a list of those that are done"""

CHUNKS_A_PROCESS = 4
"""where no rate is known: enough that a slow chunk does not hold up the others for long"""


def count_chunks(shards: int, seconds_a_shard: float | None, processes: int) -> int:
    """Return the number of chunks for some shards, between 1 and ``shards``.

    Args:
        seconds_a_shard: of one device; None where nothing was measured or stated.
        processes: that work at once.
    """
    if seconds_a_shard is None:
        wanted = CHUNKS_A_PROCESS * processes
    else:
        wanted = math.ceil(shards * seconds_a_shard / CHUNK_SECONDS)
    return max(1, min(wanted, shards, MAX_CHUNKS))


def group_samples(work: TaskBatch) -> int:
    """Return the samples of the work's group as its inputs count them, or 0 if nothing has counted them yet."""
    heads = [read.head for part in work.parts for reads in part.inputs.values() for read in reads]
    return max((head.samples for head in heads if head.group and head.group == work.group), default=0)


def seconds_a_shard(work: TaskBatch) -> float | None:
    """Estimate the seconds that all missing parts of one shard take on one device.

    The rate is the measured one, or else that of the profile.
    """
    rate = Costs(work.pipeline).rate(work.asset)
    samples = group_samples(work)
    if not rate or not samples or not work.shards:
        return None
    return samples * len(work.parts) / rate / len(work.shards)
