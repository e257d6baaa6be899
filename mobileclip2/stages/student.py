"""Make a student: train it on the reinforced dataset or on raw pairs, interpolate it, or load pretrained weights.

The training on raw pairs is the plain-CLIP baseline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import nn

from mobileclip2.config.augmentation import EARLIER_RENDERING
from mobileclip2.config.sources import OWN
from mobileclip2.config.student import Student
from mobileclip2.data import sidecar
from mobileclip2.data.validate_reinforced import VALID
from mobileclip2.engine.pipeline import Task, TaskBatch
from mobileclip2.engine.shard import local_copy
from mobileclip2.engine.shard_stage import side_name
from mobileclip2.errors import ShardError, UserError
from mobileclip2.evaluation.evaluate import curve_numbers, evaluate
from mobileclip2.models.build import save, stored_files
from mobileclip2.models.device import choose_device
from mobileclip2.models.image_text import ImageText
from mobileclip2.stages import wise_ft
from mobileclip2.stages.evaluation_sets import planned_sets
from mobileclip2.stages.load_model import VIEWS, build_image_text, load_image_text
from mobileclip2.stages.trained import publish, shards_of, size, tables_of, tars_of, train_task
from mobileclip2.training.data import RawSource, ReinforcedSource, SampleSource
from mobileclip2.training.objectives import Contrastive, Objective, Reinforced
from mobileclip2.training.published_shard import PublishedShard
from mobileclip2.training.trainer import Numbers


def run(batch: TaskBatch) -> None:
    """Train the student, interpolate it with WiSE-FT, or load its pretrained weights, and store it."""
    student = batch.profile.student(batch.asset.name)
    if student.between:
        wise_ft.run(batch, student.between)
        return
    if student.train:
        image_text, result = train_student(batch, student)
        samples = {"samples": student.train.total_steps * student.train.batch}
    else:
        image_text, result, samples = build_image_text(student.model, batch.inventory), None, {}
    facts = {**size(image_text), **image_text.provenance, **samples}
    publish(batch, result, partial(save, image_text), stored_files(image_text), facts)


def train_student(batch: TaskBatch, student: Student) -> tuple[ImageText, Numbers]:
    """Train a student and return the model and the metrics of the training."""
    (task,) = batch.tasks
    device = choose_device(batch.profile.device)
    if student.base:
        image_text = load_image_text(task.only("base"), batch.inventory)
    else:
        image_text = build_image_text(student.model, batch.inventory, student.training.seed)
    image_text.model.to(device)
    objective, source = objective_and_source(batch, task, student, image_text)
    evaluate = curve_evaluation(batch, task, student, image_text, device)
    result = train_task(batch, image_text.model, objective, source, student.training, device, evaluate)
    image_text.config.pop(VIEWS, None)
    if student.render != EARLIER_RENDERING:
        image_text.config[VIEWS] = {
            "size": image_text.preprocess.size,
            "interpolation": student.render.interpolation_of(image_text.preprocess.interpolation),
            "translation": student.render.translation,
        }
    return image_text, result


def objective_and_source(
    batch: TaskBatch, task: Task, student: Student, image_text: ImageText
) -> tuple[Objective, SampleSource]:
    """Return the objective and the samples of a training."""
    seed = student.training.seed
    if student.data == "raw":
        corpora = [artifact for name in student.corpora for artifact in task.inputs[f"corpus/{name}"]]
        found = tables_of([*task.inputs["data"], *corpora], batch.inventory)
        tables = ((local_copy(shard.url, shard.version_token), table) for shard, table in found)
        source = RawSource(
            tables,
            image_text.tokenize,
            image_text.preprocess,
            seed=seed,
            augmentation=batch.profile.augmentation(student),
            rendering=student.render,
            with_replacement=student.sampling == "with_replacement",
        )
        return Contrastive(), source
    objective = Reinforced(
        teacher_dims=_teacher_dims(batch, task, student),
        teacher_scales=batch.profile.logit_scales(student),
        distill=student.loss.distill,
        captions=student.loss.captions,
    )
    return objective, reinforced_source(batch, task, student, image_text, objective.needs)


def _teacher_dims(batch: TaskBatch, task: Task, student: Student) -> list[int]:
    """Return the dimensions of the teachers, which must be equal in all datasets of the student."""
    teachers = list(batch.profile.teacher_scales(batch.profile.datasets_of(student)[0]))
    found: dict[tuple[int, ...], str] = {}
    for role, artifacts in task.inputs.items():
        for artifact in artifacts:
            # a group of published shards without samples has no dimensions
            if dims := artifact.manifest.facts.get("teacher_dims"):
                found.setdefault(tuple(dims[name] for name in teachers), role)
    if len(found) > 1:
        listed = " and ".join(f"{list(dims)} in '{role}'" for dims, role in found.items())
        raise UserError(
            f"student '{student.name}': the teachers {', '.join(teachers)} have the dimensions {listed}; "
            "name datasets of the same teachers in 'datasets'"
        )
    if not found:
        raise ShardError(
            f"student '{student.name}': no shard has a valid reinforced sample; check the skipped samples of its datasets"
        )
    return list(next(iter(found)))


def reinforced_source(
    batch: TaskBatch, task: Task, student: Student, image_text: ImageText, needs: Sequence[str]
) -> ReinforcedSource:
    """Open the DR tars of all groups. If the profile's own dataset has no images, read them from the source shards."""
    tars, images = tars_of(task.inputs.get("data", []), batch.inventory)
    published = [shard for name in batch.profile.datasets_of(student) for shard in _published(batch, task, name)]
    captioners = student.loss.captioners
    return ReinforcedSource(
        [*tars, *published],
        image_text.tokenize,
        image_text.preprocess,
        seed=student.training.seed,
        captions=f"^syn_text_({'|'.join(captioners)})$" if captioners else "^syn_text.*$",
        needs=needs,
        images=images,
        augmentation=batch.profile.augmentation(student),
        rendering=student.render,
        with_replacement=student.sampling == "with_replacement",
    )


def _published(batch: TaskBatch, task: Task, name: str) -> Iterator[PublishedShard]:
    """Yield the published shards of a dataset that have valid samples."""
    if name == OWN:
        return
    images = {shard.relative: shard for shard in batch.inventory.image_shards(name)}
    for artifact in task.inputs[f"reinforced/{name}"]:
        for shard in shards_of(artifact, batch.inventory):
            table = sidecar.read(artifact.fetch(side_name(shard)), VALID)
            if not table.num_rows:
                continue
            used = [each for each in dict.fromkeys(table.column("image_shard").to_pylist()) if each is not None]
            if gone := set(used).difference(images):
                raise ShardError(f"{shard.url}: the shard of images '{min(gone)}' is gone; restore it, or plan again")
            copies = {each: local_copy(images[each].url, images[each].version_token) for each in used}
            yield PublishedShard(local_copy(shard.url, shard.version_token), table, copies)


def curve_evaluation(
    batch: TaskBatch, task: Task, student: Student, image_text: ImageText, device: torch.device
) -> Callable[[nn.Module], dict[str, float]] | None:
    """Return the function that evaluates the model during training, or None if the student has no ``evaluate_on``."""
    if not student.evaluate_on:
        return None
    pixels: dict[str, torch.Tensor] = {}

    def evaluate_on_sets(_: nn.Module) -> dict[str, float]:
        with planned_sets(batch, task, "curve", student.evaluate_on) as sets:
            return curve_numbers(evaluate(image_text, sets, device=device, pixels=pixels))

    return evaluate_on_sets
