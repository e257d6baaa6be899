"""Writes the missing captions of every image. An image is encoded once for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import pyarrow as pa
import torch
from PIL import Image

from mobileclip2 import sidefile
from mobileclip2.captioners.captions import caption_images
from mobileclip2.captioners.load import load_captioner
from mobileclip2.contents import Shard
from mobileclip2.models.device import choose_device
from mobileclip2.pipeline import PartWork, Work
from mobileclip2.stages.by_shard import ByShard, WriteShard, close_parts, images_of, raw_table, write_side


def begin(work: Work) -> WriteShard:
    device = choose_device(work.profile.device)
    captioner = load_captioner(work.parts[0].only("captioner"))
    captioner.model.to(device)
    settings = work.profile.captioner(work.asset.name).generation

    def write(shard: Shard, parts: list[PartWork]) -> None:
        raw = raw_table(parts[0].only("raw_shards"), shard)
        numbers = [part.part.declared["caption"] for part in parts]
        keys: list[str] = []
        texts: dict[int, list[str]] = {number: [] for number in numbers}
        failures = []
        for batch in batched(images_of(shard, raw), work.profile.batch):
            images = torch.stack([captioner.preprocess.whole(image) for _, image in batch]).to(device)
            batch_keys = [key for key, _ in batch]
            written = caption_images(captioner, images, batch_keys, numbers, settings)
            keys += batch_keys
            for row in written.captions:
                for number, text in zip(numbers, row, strict=True):
                    texts[number].append(text)
            failures += written.failures
        for part, number in zip(parts, numbers, strict=True):
            failed = [failure for failure in failures if failure.caption == number]
            skipped = pa.table(
                {
                    "key": pa.array([failure.key for failure in failed], pa.string()),
                    "reason": pa.array([failure.reason for failure in failed], pa.string()),
                    "detail": pa.array([f"caption {number}, {settings.retries} retries" for _ in failed], pa.string()),
                }
            )
            write_side(
                part, shard, pa.table({"key": keys, "caption": texts[number]}, schema=sidefile.CAPTIONS), skipped
            )

    return write


def batched(images: Iterator[tuple[str, Image.Image]], size: int) -> Iterator[list[tuple[str, Image.Image]]]:
    while batch := list(islice(images, size)):
        yield batch


run = ByShard(begin, close_parts)
