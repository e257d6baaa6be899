"""Embed the missing views or texts of every sample with one teacher. Embeddings are normalized and bf16.

Each view is rendered from the original image at the input size of the teacher.
"""

from __future__ import annotations

import torch
from PIL import Image

from mobileclip2.data import sidecar
from mobileclip2.data.augmentation import View, render
from mobileclip2.engine.pipeline import Task, TaskBatch
from mobileclip2.engine.shard import Shard
from mobileclip2.engine.shard_stage import ShardStage, WriteShard, commit_sidecars, raw_table, side_name, write_sidecar
from mobileclip2.errors import ShardError
from mobileclip2.models.batched import each_text_once
from mobileclip2.models.device import choose_device, inference
from mobileclip2.models.image_text import ImageText
from mobileclip2.stages.load_model import load_image_text
from mobileclip2.stages.prefetch import prepared, to_device


def begin(batch: TaskBatch) -> WriteShard:
    """Return the function that embeds the missing views or texts of a shard."""
    device = choose_device(batch.profile.device)
    teacher = load_image_text(batch.tasks[0].only("teacher"), batch.inventory)
    teacher.model.to(device)
    embed = embed_views if batch.asset.key.kind == "image" else embed_texts

    def write(shard: Shard, tasks: list[Task]) -> None:
        embed(teacher, shard, tasks, batch.profile.batch, device)

    return write


def commit(batch: TaskBatch) -> None:
    """Commit the manifests. Their facts contain the dimension of the embeddings."""
    for task in batch.tasks:
        commit_sidecars(task, batch.shards, {"embed_dim": task.only("teacher").summary.facts["embed_dim"]})


run = ShardStage(begin, commit)


def embed_views(teacher: ImageText, shard: Shard, tasks: list[Task], batch_size: int, device: torch.device) -> None:
    """Embed the missing views of a shard. Each image is decoded once for all its views.

    Raises:
        ShardError: the stored views and the validated samples have different keys.
    """
    raw = raw_table(tasks[0].only("raw_shards"), shard)
    keys = raw.column("key").to_pylist()
    views = [_views(task, shard, keys) for task in tasks]
    preprocess = teacher.preprocess

    def render_views(number: int, image: Image.Image) -> torch.Tensor:
        """Render the views of an image, uint8 ``[tasks, size, size, 3]``."""
        rendered = (render(image, part[number], preprocess.size, preprocess.interpolation) for part in views)
        return torch.stack([preprocess.pixels(view) for view in rendered])

    embedded = [torch.empty(0, len(tasks), teacher.embed_dim, dtype=torch.bfloat16, device=device)]
    with inference(device):
        for pixels in prepared(shard, raw, render_views, max(1, batch_size // len(tasks))):
            features = teacher.embed_images(preprocess.normalized(to_device(pixels.flatten(0, 1), device)))
            # kept on the device, because a copy would wait for the GPU
            embedded.append(features.bfloat16().unflatten(0, (-1, len(tasks))))
    per_task = torch.cat(embedded).cpu().unbind(1)
    for task, features in zip(tasks, per_task, strict=True):
        write_sidecar(task, shard, sidecar.embeddings_table(keys, features))


def _views(task: Task, shard: Shard, keys: list[str]) -> list[View]:
    table = sidecar.read(task.only("view").fetch(side_name(shard)))
    if table.column("key").to_pylist() != keys:
        raise ShardError(f"{shard.url}: the stored views belong to other samples; run augmentations again")
    return [View.from_json(text) for text in table.column("view").to_pylist()]


def embed_texts(teacher: ImageText, shard: Shard, tasks: list[Task], batch_size: int, device: torch.device) -> None:
    """Embed the texts of a shard. Equal texts are embedded once. Empty texts of failed captions have no row."""
    for task in tasks:
        table = sidecar.read(task.only("texts").fetch(side_name(shard)), sidecar.CAPTIONS)
        rows = [(row["key"], row["caption"]) for row in table.to_pylist() if row["caption"]]
        keys, texts = [key for key, _ in rows], [text for _, text in rows]
        with inference(device):
            embedded = (
                each_text_once(teacher.embed_texts, texts, batch_size) if texts else torch.empty(0, teacher.embed_dim)
            )
        write_sidecar(task, shard, sidecar.embeddings_table(keys, embedded))
