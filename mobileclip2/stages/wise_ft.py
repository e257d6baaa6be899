"""Interpolate the weights of two students (WiSE-FT, arXiv:2109.01903): evaluate all points and store the picked one."""

from __future__ import annotations

from functools import partial

from mobileclip2.config.student import WiseFT
from mobileclip2.engine.pipeline import Task, TaskBatch
from mobileclip2.evaluation.evaluate import evaluate
from mobileclip2.evaluation.wise_ft import CURVE, Point, pick, read_curve, write_curve
from mobileclip2.models.build import save, stored_files
from mobileclip2.models.device import choose_device
from mobileclip2.models.image_text import ImageText
from mobileclip2.models.tensors import interpolated
from mobileclip2.progress import Step
from mobileclip2.stages.evaluation_sets import planned_sets
from mobileclip2.stages.load_model import build_image_text, load_image_text
from mobileclip2.stages.trained import publish, size


def run(batch: TaskBatch, wise_ft: WiseFT) -> None:
    """Evaluate the curve and store the picked student. A killed run continues after the last evaluated point."""
    (task,) = batch.tasks
    model = load_image_text(task.only("end"), batch.inventory)
    end = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
    start = _start(batch, task, wise_ft).model.state_dict()
    device = choose_device(batch.profile.device)
    curve = read_curve(batch.scratch / CURVE)
    for weight in wise_ft.weights[len(curve) :]:
        model.model.load_state_dict(interpolated(start, end, weight))
        with planned_sets(batch, task, "curve", wise_ft.pick.sets) as sets:
            results = evaluate(model, sets, batch=batch.profile.batch, device=device)
        curve.append(Point(weight, {result.key: result.metrics for result in results}))
        write_curve(batch.scratch / CURVE, curve)
        batch.scratch_store.save(CURVE)
        numbers = {name: curve[-1].main(name) for name in wise_ft.pick.sets}
        batch.progress(Step(len(curve), len(wise_ft.weights), "points", numbers))
    picked = pick(curve, wise_ft.pick)
    model.model.load_state_dict(interpolated(start, end, picked.weight))
    publish(batch, None, partial(save, model), [*stored_files(model), CURVE], {**size(model), "weight": picked.weight})


def _start(batch: TaskBatch, task: Task, wise_ft: WiseFT) -> ImageText:
    """Return the model from which the end was trained: another student, or its pretrained weights."""
    if "start" in task.inputs:
        return load_image_text(task.only("start"), batch.inventory)
    return build_image_text(batch.profile.student(wise_ft.to).model, batch.inventory)
