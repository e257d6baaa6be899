"""Join the captions, views and embeddings of a group's samples into DR tars."""

from __future__ import annotations

import tempfile
from pathlib import Path

from mobileclip2.data import sidecar
from mobileclip2.data.join import TeacherFiles, join_shard
from mobileclip2.data.validate import check_share
from mobileclip2.engine.pipeline import Task, TaskBatch
from mobileclip2.engine.shard import Shard, open_shard
from mobileclip2.engine.shard_stage import ShardStage, WriteShard, side_name, skipped_name, skips
from mobileclip2.store.storage import temporary_files


def tar_name(shard: Shard) -> str:
    """Return the name of a shard's reinforced tar."""
    return f"{shard.id}.tar"


def begin(batch: TaskBatch) -> WriteShard:
    """Return the function that joins a shard."""
    (task,) = batch.tasks
    dataset = batch.profile.dataset

    def write(shard: Shard, tasks: list[Task]) -> None:
        def files(role: str) -> list[Path]:
            return [artifact.fetch(side_name(shard)) for artifact in task.inputs[role]]

        captioners = batch.profile.dataset_captioners
        (raw,) = files("raw_shards")
        teachers = [
            TeacherFiles(
                name,
                files(f"embeddings/{name}/image"),
                files(f"embeddings/{name}/text")[0],
                {captioner: files(f"embeddings/{name}/{captioner}") for captioner in captioners},
            )
            for name in batch.profile.dataset_teachers
        ]
        with temporary_files(), tempfile.TemporaryDirectory() as folder:
            tar = Path(folder) / tar_name(shard)
            with open_shard(shard) as file:
                samples, skipped = join_shard(
                    file,
                    raw,
                    files("augmentations"),
                    {captioner: files(f"captions/{captioner}") for captioner in captioners},
                    teachers,
                    tar,
                    storage=dataset.storage,
                    images=dataset.images,
                )
            check_share(skipped, samples + skipped.num_rows, batch.profile.max_bad_share, shard.url)
            if skipped.num_rows:
                task.output.write(skipped_name(shard), sidecar.to_bytes(skipped))
            task.output.put(tar_name(shard), tar)

    return write


def commit(batch: TaskBatch) -> None:
    """Commit the manifest. Its facts contain the order and dimensions of the teachers."""
    (task,) = batch.tasks
    raw, shards = task.only("raw_shards"), batch.shards
    names, reasons = skips(task, shards)
    samples = sum(sidecar.rows(raw.fetch(side_name(shard))) for shard in shards) - reasons.total()
    teachers = list(batch.profile.dataset_teachers)
    dims = {name: task.inputs[f"embeddings/{name}/image"][0].manifest.facts["embed_dim"] for name in teachers}
    facts = {"teachers": teachers, "teacher_dims": dims}
    task.commit([*map(tar_name, shards), *names], samples=samples, skip_reasons=reasons, facts=facts)


run = ShardStage(begin, commit, tar_name)
