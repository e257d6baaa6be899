"""Trains one student of a study and keeps what it scored; its weights are of no further use."""

from __future__ import annotations

from mobileclip2.engine.pipeline import TaskBatch
from mobileclip2.stages.student import train_student
from mobileclip2.stages.trained import publish


def run(work: TaskBatch) -> None:
    """Train one trial, and store its scores without its weights."""
    (part,) = work.parts
    work.kept.recall()
    study = work.profile.study(work.asset.name)
    student = study.trials(work.profile)[part.part.name]
    _, result = train_student(work, part, student)
    scores = {name: value for name, value in result.numbers.items() if name.rpartition("/")[0] in study.evaluate_on}
    samples = student.training.total_steps * student.training.batch
    publish(work, result, lambda folder: None, [], {"samples": samples, "scores": scores})
