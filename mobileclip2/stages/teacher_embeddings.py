"""Embeds the missing views, or texts, of every sample with one teacher: normalized, bf16, keyed by sample.

Each teacher renders a stored crop from the original image at its own input size and normalization.
"""

from __future__ import annotations

import torch
from PIL import Image

from mobileclip2.data import sidecar as sidefile
from mobileclip2.data.augmentation import View, render
from mobileclip2.engine.pipeline import Task, TaskBatch
from mobileclip2.engine.shard_stage import ShardStage, WriteShard, close_shards, raw_table, side_name, write_side
from mobileclip2.engine.source_inventory import Shard
from mobileclip2.errors import ShardError
from mobileclip2.models.batched import each_text_once
from mobileclip2.models.device import choose_device, inference
from mobileclip2.models.image_text import ImageText
from mobileclip2.stages.load_model import load_image_text
from mobileclip2.stages.prefetch import prepared, to_device


def begin(work: TaskBatch) -> WriteShard:
    """Return the function that embeds the missing views or texts of a shard."""
    device = choose_device(work.profile.device)
    teacher = load_image_text(work.parts[0].only("teacher"), work.contents)
    teacher.model.to(device)
    embed = embed_views if work.asset.key.endswith("/image") else embed_texts

    def write(shard: Shard, parts: list[Task]) -> None:
        embed(teacher, shard, parts, work.profile.batch, device)

    return write


def close(work: TaskBatch) -> None:
    """Close the manifests, with the dimension of the embeddings."""
    for part in work.parts:
        close_shards(part, work.shards, {"embed_dim": part.only("teacher").head.facts["embed_dim"]})


run = ShardStage(begin, close)


def embed_views(teacher: ImageText, shard: Shard, parts: list[Task], batch: int, device: torch.device) -> None:
    """Embed the missing views of a shard. Each image is decoded once for all its views.

    Raises:
        ShardError: the stored views do not belong to the stored samples.
    """
    raw = raw_table(parts[0].only("raw_shards"), shard)
    keys = raw.column("key").to_pylist()
    views = [_views(part, shard, keys) for part in parts]
    preprocess = teacher.preprocess

    def drawn(number: int, image: Image.Image) -> torch.Tensor:
        """Render the views of an image, uint8 ``[parts, size, size, 3]``."""
        each = (render(image, of_part[number], preprocess.size, preprocess.interpolation) for of_part in views)
        return torch.stack([preprocess.pixels(view) for view in each])

    embedded = [torch.empty(0, len(parts), teacher.embed_dim, dtype=torch.bfloat16, device=device)]
    with inference(device):
        for pixels in prepared(shard, raw, drawn, max(1, batch // len(parts))):
            features = teacher.embed_images(preprocess.normalized(to_device(pixels.flatten(0, 1), device)))
            # stays on the device, which a copy would have to wait for
            embedded.append(features.bfloat16().unflatten(0, (-1, len(parts))))
    by_part = torch.cat(embedded).cpu().unbind(1)
    for part, features in zip(parts, by_part, strict=True):
        write_side(part, shard, sidefile.embeddings_table(keys, features))


def _views(part: Task, shard: Shard, keys: list[str]) -> list[View]:
    table = sidefile.read(part.only("view").fetch(side_name(shard)))
    if table.column("key").to_pylist() != keys:
        raise ShardError(f"{shard.url}: the stored views are of other samples; run augmentations again")
    return [View.from_json(text) for text in table.column("view").to_pylist()]


def embed_texts(teacher: ImageText, shard: Shard, parts: list[Task], batch: int, device: torch.device) -> None:
    """Equal texts are embedded once; an empty text, which a captioner failed to write, has no row."""
    for part in parts:
        table = sidefile.read(part.only("texts").fetch(side_name(shard)), sidefile.CAPTIONS)
        rows = [(row["key"], row["caption"]) for row in table.to_pylist() if row["caption"]]
        keys, texts = [key for key, _ in rows], [text for _, text in rows]
        with inference(device):
            embedded = each_text_once(teacher.embed_texts, texts, batch) if texts else torch.empty(0, teacher.embed_dim)
        write_side(part, shard, sidefile.embeddings_table(keys, embedded))
