"""Validate every sample of the source shards. Sidecars list the valid samples; the tars are not copied."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence

from mobileclip2.data.tar import read_samples
from mobileclip2.data.validate import check_share, validate_shard
from mobileclip2.engine.pipeline import Task, TaskBatch
from mobileclip2.engine.shard import Shard, open_shard
from mobileclip2.engine.shard_stage import ShardStage, WriteShard, commit_tasks, write_sidecar

logger = logging.getLogger(__name__)


def begin(batch: TaskBatch) -> WriteShard:
    """Return the function that validates a shard."""
    (task,) = batch.tasks

    def write(shard: Shard, tasks: list[Task]) -> None:
        with open_shard(shard) as file:
            ignored: Counter[str] = Counter()
            samples = read_samples(file, shard.url, ignored)
            valid, skipped = validate_shard(samples, batch.profile.filters, _caption_keys(batch, shard), ignored)
        if ignored:
            found = ", ".join(f"{count} {kind}" for kind, count in sorted(ignored.items()))
            logger.info("%s: ignored members by type: %s", shard.url, found)
        check_share(skipped, valid.num_rows + skipped.num_rows, batch.profile.max_bad_share, shard.url)
        write_sidecar(task, shard, valid, skipped)

    return write


def _caption_keys(batch: TaskBatch, shard: Shard) -> Sequence[str]:
    """Return the caption keys of a corpus, or of the source after which a shard is named."""
    is_corpus = batch.asset.stage == "caption_corpus"
    name = batch.asset.name if is_corpus else shard.relative.partition("/")[0]
    given = batch.profile.caption_corpora if is_corpus else batch.profile.sources
    return next(each.caption_keys for each in given if each.name == name) or ()


run = ShardStage(begin, commit_tasks)
