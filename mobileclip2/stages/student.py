"""Trains a student on the reinforced dataset, or on the raw pairs as the plain-CLIP baseline.

One that is not trained has given weights, or lies between two others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

from mobileclip2.config.profile import Student
from mobileclip2.engine.pipeline import Task, TaskBatch
from mobileclip2.engine.source_inventory import local_copy
from mobileclip2.evaluation.evaluate import curve_numbers, evaluate
from mobileclip2.models.build import CONFIG, WEIGHTS, build, save
from mobileclip2.models.device import choose_device
from mobileclip2.models.image_text import ImageText
from mobileclip2.stages import wise_ft as between
from mobileclip2.stages.evaluation import open_set
from mobileclip2.stages.load_model import load_image_text
from mobileclip2.stages.reinforced_dataset import tar_name
from mobileclip2.stages.trained import publish, shards_of, size, tables_of
from mobileclip2.training.data import RawSource, ReinforcedSource, SampleSource
from mobileclip2.training.objectives import Contrastive, Objective, Reinforced
from mobileclip2.training.trainer import TrainResult, train


def run(work: TaskBatch) -> None:
    """Train the student, interpolate it, or store its given weights."""
    (part,) = work.parts
    work.kept.recall()
    student = work.profile.student(work.asset.name)
    if student.between:
        between.run(work, student.between)
    elif student.train:
        image_text, result = train_student(work, part, student)
        facts = {**size(image_text), "samples": student.train.total_steps * student.train.batch}
        publish(work, result, partial(save, image_text), [CONFIG, WEIGHTS], facts)
    else:
        assert student.model is not None
        image_text = build(student.model, work.contents.model_weights(student.model))
        publish(work, None, partial(save, image_text), [CONFIG, WEIGHTS], size(image_text))


def train_student(work: TaskBatch, part: Task, student: Student) -> tuple[ImageText, TrainResult]:
    """Train a student, and return the model with the result of its training."""
    device = choose_device(work.profile.device)
    if student.base:
        image_text = load_image_text(part.only("base"), work.contents)
    else:
        assert student.model is not None
        image_text = build(student.model, work.contents.model_weights(student.model), seed=student.training.seed)
    image_text.model.to(device)
    objective, source = learning(work, part, student, image_text)
    result = train(
        image_text.model,
        objective,
        source,
        student.training,
        work.scratch,
        device=device,
        fingerprint=part.fingerprint,
        evaluate=curve(work, student, image_text, device),
        progress=work.progress,
        upload=work.kept.keep,
    )
    return image_text, result


def learning(work: TaskBatch, part: Task, student: Student, image_text: ImageText) -> tuple[Objective, SampleSource]:
    """Return what the student minimizes and the data it sees."""
    seed, shards = student.training.seed, part.inputs["data"]
    if student.data == "raw":
        tables = ((local_copy(shard.url), table) for shard, table in tables_of(shards, work.contents))
        augmentation = work.profile.views.augmentation
        source = RawSource(tables, image_text.tokenize, image_text.preprocess, seed=seed, augmentation=augmentation)
        return Contrastive(), source
    dims = shards[0].manifest.facts["teacher_dims"]
    objective = Reinforced(
        teacher_dims=[dims[name] for name in work.profile.dataset_teachers],
        teacher_scales=work.profile.logit_scales(student),
        distill=student.loss.distill,
        captions=student.loss.captions,
    )
    return objective, reinforced_source(work, part, student, image_text, objective.needs)


def reinforced_source(
    work: TaskBatch, part: Task, student: Student, image_text: ImageText, needs: Sequence[str]
) -> ReinforcedSource:
    """Open the DR tars of all groups. The images of a dataset without images come from the source shards."""
    found = [(read, shard) for read in part.inputs["data"] for shard in shards_of(read, work.contents, tar_name)]
    chosen = student.loss.captioners
    return ReinforcedSource(
        [read.fetch(tar_name(shard)) for read, shard in found],
        image_text.tokenize,
        image_text.preprocess,
        seed=student.training.seed,
        captions=f"^syn_text_({'|'.join(chosen)})$" if chosen else "^syn_text.*$",
        needs=needs,
        images=None if work.profile.dataset.images else [local_copy(shard.url) for _, shard in found],
    )


def curve(
    work: TaskBatch, student: Student, image_text: ImageText, device: torch.device
) -> Callable[[nn.Module], dict[str, float]] | None:
    """Return the evaluation during training, on the sets that the profile names for it."""
    if not student.evaluate_on:
        return None
    sets = [open_set(work.profile, name) for name in student.evaluate_on]
    pixels: dict[str, torch.Tensor] = {}
    return lambda model: curve_numbers(evaluate(image_text, sets, device=device, pixels=pixels))
