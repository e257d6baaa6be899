"""Joins everything that was stored about a group's samples into DR tars."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

from mobileclip2.data import sidecar as sidefile
from mobileclip2.data.join import TeacherFiles, join_shard
from mobileclip2.data.validate import check_share
from mobileclip2.engine.pipeline import Task, TaskBatch
from mobileclip2.engine.shard_stage import ShardStage, WriteShard, side_name, skipped_name
from mobileclip2.engine.source_inventory import Shard, local_copy
from mobileclip2.store.storage import temporary_files


def tar_name(shard: Shard) -> str:
    """Return the name of a shard's reinforced tar."""
    return f"{shard.id}.tar"


def begin(work: TaskBatch) -> WriteShard:
    """Return the function that joins a shard."""
    (part,) = work.parts
    dataset = work.profile.dataset

    def write(shard: Shard, parts: list[Task]) -> None:
        def files(role: str) -> list[Path]:
            return [read.fetch(side_name(shard)) for read in part.inputs[role]]

        captioners = work.profile.dataset_captioners
        (raw,) = files("raw_shards")
        teachers = [
            TeacherFiles(
                name,
                files(f"embeddings/{name}/image"),
                files(f"embeddings/{name}/text")[0],
                {captioner: files(f"embeddings/{name}/{captioner}") for captioner in captioners},
            )
            for name in work.profile.dataset_teachers
        ]
        with temporary_files(), tempfile.TemporaryDirectory() as folder:
            tar = Path(folder) / tar_name(shard)
            counts = join_shard(
                local_copy(shard.url),
                raw,
                files("augmentations"),
                {captioner: files(f"captions/{captioner}") for captioner in captioners},
                teachers,
                tar,
                storage=dataset.storage,
                images=dataset.images,
            )
            total = counts.samples + counts.skipped.num_rows
            check_share(counts.skipped, total, work.profile.max_bad_share, shard.url)
            if counts.skipped.num_rows:
                part.output.write(skipped_name(shard), sidefile.to_bytes(counts.skipped))
            part.output.put(tar_name(shard), tar)

    return write


def close(work: TaskBatch) -> None:
    """Close the manifest, with the order and dimensions of the teachers."""
    (part,) = work.parts
    names, samples, reasons = [], 0, Counter[str]()
    (raw,) = part.inputs["raw_shards"]
    for shard in work.shards:
        names.append(tar_name(shard))
        samples += sidefile.rows(raw.fetch(side_name(shard)))
        if part.output.has(skipped_name(shard)):
            names.append(skipped_name(shard))
            skipped = sidefile.read(part.output.fetch(skipped_name(shard)))
            samples -= skipped.num_rows
            reasons.update(skipped.column("reason").to_pylist())
    teachers = list(work.profile.dataset_teachers)
    dims = {name: part.inputs[f"embeddings/{name}/image"][0].manifest.facts["embed_dim"] for name in teachers}
    facts = {"teachers": teachers, "teacher_dims": dims}
    part.close(names, samples=samples, skip_reasons=dict(reasons), facts=facts)


run = ShardStage(begin, close, tar_name)
