"""Make a student: train it on the reinforced dataset or on raw pairs, interpolate it, or load pretrained weights.

The training on raw pairs is the plain-CLIP baseline.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

from mobileclip2.config.student import Student
from mobileclip2.engine.pipeline import Task, TaskBatch
from mobileclip2.engine.source_inventory import local_copy
from mobileclip2.evaluation.evaluate import curve_numbers, evaluate
from mobileclip2.models.build import build, save, stored_files
from mobileclip2.models.device import choose_device
from mobileclip2.models.image_text import ImageText
from mobileclip2.stages import wise_ft
from mobileclip2.stages.evaluation import open_set
from mobileclip2.stages.load_model import load_image_text
from mobileclip2.stages.reinforced_dataset import tar_name
from mobileclip2.stages.trained import publish, shards_of, size, tables_of
from mobileclip2.training.data import RawSource, ReinforcedSource, SampleSource
from mobileclip2.training.objectives import Contrastive, Objective, Reinforced
from mobileclip2.training.trainer import TrainResult, train


def run(batch: TaskBatch) -> None:
    """Train the student, interpolate it with WiSE-FT, or load its pretrained weights, and store it."""
    (task,) = batch.tasks
    batch.scratch_store.recall()
    student = batch.profile.student(batch.asset.name)
    if student.between:
        wise_ft.run(batch, student.between)
    elif student.train:
        image_text, result = train_student(batch, task, student)
        facts = {
            **size(image_text),
            **image_text.provenance,
            "samples": student.train.total_steps * student.train.batch,
        }
        publish(batch, result, partial(save, image_text), stored_files(image_text), facts)
    else:
        assert student.model is not None
        image_text = build(
            student.model,
            batch.contents.model_weights(student.model),
            commits=batch.contents.model_commits(student.model),
        )
        facts = {**size(image_text), **image_text.provenance}
        publish(batch, None, partial(save, image_text), stored_files(image_text), facts)


def train_student(batch: TaskBatch, task: Task, student: Student) -> tuple[ImageText, TrainResult]:
    """Train a student and return the model and the training result."""
    device = choose_device(batch.profile.device)
    if student.base:
        image_text = load_image_text(task.only("base"), batch.contents)
    else:
        assert student.model is not None
        image_text = build(
            student.model,
            batch.contents.model_weights(student.model),
            commits=batch.contents.model_commits(student.model),
            seed=student.training.seed,
        )
    image_text.model.to(device)
    objective, source = objective_and_source(batch, task, student, image_text)
    result = train(
        image_text.model,
        objective,
        source,
        student.training,
        batch.scratch,
        device=device,
        fingerprint=task.fingerprint,
        evaluate=curve_evaluation(batch, student, image_text, device),
        progress=batch.progress,
        upload=batch.scratch_store.keep,
    )
    return image_text, result


def objective_and_source(
    batch: TaskBatch, task: Task, student: Student, image_text: ImageText
) -> tuple[Objective, SampleSource]:
    """Return the objective and the samples of a training."""
    seed, shards = student.training.seed, task.inputs["data"]
    if student.data == "raw":
        tables = ((local_copy(shard.url), table) for shard, table in tables_of(shards, batch.contents))
        augmentation = batch.profile.views.augmentation
        source = RawSource(tables, image_text.tokenize, image_text.preprocess, seed=seed, augmentation=augmentation)
        return Contrastive(), source
    dims = shards[0].manifest.facts["teacher_dims"]
    objective = Reinforced(
        teacher_dims=[dims[name] for name in batch.profile.dataset_teachers],
        teacher_scales=batch.profile.logit_scales(student),
        distill=student.loss.distill,
        captions=student.loss.captions,
    )
    return objective, reinforced_source(batch, task, student, image_text, objective.needs)


def reinforced_source(
    batch: TaskBatch, task: Task, student: Student, image_text: ImageText, needs: Sequence[str]
) -> ReinforcedSource:
    """Open the DR tars of all groups. If the dataset has no images, read them from the source shards."""
    found = [
        (artifact, shard) for artifact in task.inputs["data"] for shard in shards_of(artifact, batch.contents, tar_name)
    ]
    captioners = student.loss.captioners
    return ReinforcedSource(
        [artifact.fetch(tar_name(shard)) for artifact, shard in found],
        image_text.tokenize,
        image_text.preprocess,
        seed=student.training.seed,
        captions=f"^syn_text_({'|'.join(captioners)})$" if captioners else "^syn_text.*$",
        needs=needs,
        images=None if batch.profile.dataset.images else [local_copy(shard.url) for _, shard in found],
    )


def curve_evaluation(
    batch: TaskBatch, student: Student, image_text: ImageText, device: torch.device
) -> Callable[[nn.Module], dict[str, float]] | None:
    """Return the function that evaluates the model during training, or None if the student has no ``evaluate_on``."""
    if not student.evaluate_on:
        return None
    sets = [open_set(batch.profile, name) for name in student.evaluate_on]
    pixels: dict[str, torch.Tensor] = {}
    return lambda model: curve_numbers(evaluate(image_text, sets, device=device, pixels=pixels))
