"""Train one trial of a study and store its scores."""

from __future__ import annotations

from mobileclip2.engine.pipeline import TaskBatch
from mobileclip2.evaluation.results import MetricName
from mobileclip2.stages.student import train_student
from mobileclip2.stages.trained import publish


def run(batch: TaskBatch) -> None:
    """Train the trial and store its scores. Do not store its weights."""
    (task,) = batch.tasks
    study = batch.profile.study(batch.asset.name)
    student = batch.profile.trials(study)[task.slice.name]
    _, result = train_student(batch, student)
    scores = {name: value for name, value in result.items() if MetricName.parse(name).set in study.evaluate_on}
    samples = student.training.total_steps * student.training.batch
    publish(batch, result, lambda folder: None, [], {"samples": samples, "scores": scores})
