"""Score every pair: the cosine similarity of its image and its caption. The sidecar also has the image's embedding."""

from __future__ import annotations

import pyarrow as pa
import torch

from mobileclip2.data import sidecar
from mobileclip2.engine.pipeline import Task, TaskBatch
from mobileclip2.engine.shard import Shard
from mobileclip2.engine.shard_stage import ShardStage, WriteShard, commit_tasks, raw_table, write_sidecar
from mobileclip2.errors import WeightsError
from mobileclip2.models.batched import each_text_once
from mobileclip2.models.device import choose_device, inference
from mobileclip2.stages.load_model import load_image_text
from mobileclip2.stages.prefetch import preprocessed_images


def begin(batch: TaskBatch) -> WriteShard:
    """Return the function that scores the pairs of a shard."""
    (task,) = batch.tasks
    device = choose_device(batch.profile.device)
    model = load_image_text(task.only("model"), batch.inventory)
    model.model.to(device)
    size = batch.profile.batch

    def write(shard: Shard, tasks: list[Task]) -> None:
        raw = raw_table(task.only("raw_shards"), shard)
        captions = raw.column("caption").to_pylist()
        images, texts = torch.empty(0, model.embed_dim), torch.empty(0, model.embed_dim)
        if captions:
            with inference(device):
                pixels = preprocessed_images(shard, raw, model.preprocess, size, device)
                images = torch.cat([model.embed_images(each).float() for each in pixels]).cpu()
                texts = each_text_once(model.embed_texts, captions, size).float()
        scores = (images * texts).sum(dim=1)
        if not scores.isfinite().all():
            raise WeightsError(
                f"{batch.asset.key}: {task.only('model').summary.asset} gives scores that are not finite; its weights are broken"
            )
        table = sidecar.embeddings_table(raw.column("key").to_pylist(), images)
        write_sidecar(task, shard, table.append_column(sidecar.SCORES.field("score"), pa.array(scores.numpy())))

    return write


run = ShardStage(begin, commit_tasks)
