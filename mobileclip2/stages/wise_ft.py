"""Makes the student that lies between two others: measures the curve of interpolated weights and stores the point picked."""

from __future__ import annotations

from functools import partial

from mobileclip2.config.profile import WiseFT
from mobileclip2.engine.pipeline import Task, TaskBatch
from mobileclip2.evaluation.evaluate import evaluate
from mobileclip2.evaluation.wise_ft import CURVE, Point, pick, read_curve, write_curve
from mobileclip2.models.build import CONFIG, WEIGHTS, build, save
from mobileclip2.models.device import choose_device
from mobileclip2.models.image_text import ImageText
from mobileclip2.models.interpolate import interpolated
from mobileclip2.progress import Step
from mobileclip2.stages.evaluation import open_set
from mobileclip2.stages.load_model import load_image_text
from mobileclip2.stages.trained import publish, size


def run(work: TaskBatch, between: WiseFT) -> None:
    """Every point is kept in the scratch folder as soon as it is measured: a killed run loses the one in hand."""
    (part,) = work.parts
    model = load_image_text(part.only("end"), work.contents)
    end = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
    start = _start(work, part, between).model.state_dict()
    device = choose_device(work.profile.device)
    sets = [open_set(work.profile, name) for name in between.pick.sets]
    curve = read_curve(work.scratch / CURVE)
    for weight in between.weights[len(curve) :]:
        model.model.load_state_dict(interpolated(start, end, weight))
        results = evaluate(model, sets, batch=work.profile.batch, device=device)
        curve.append(Point(weight, {result.key: result.metrics for result in results}))
        write_curve(work.scratch / CURVE, curve)
        work.kept.keep(CURVE)
        numbers = {name: curve[-1].main(name) for name in between.pick.sets}
        work.progress(Step(len(curve), len(between.weights), "points", numbers))
    picked = pick(curve, between.pick)
    model.model.load_state_dict(interpolated(start, end, picked.weight))
    publish(work, None, partial(save, model), [CONFIG, WEIGHTS, CURVE], {**size(model), "weight": picked.weight})


def _start(work: TaskBatch, part: Task, between: WiseFT) -> ImageText:
    """Return what the end was trained from: another student, or the weights that its model comes with."""
    if "start" in part.inputs:
        return load_image_text(part.only("start"), work.contents)
    end = work.profile.student(between.to)
    assert end.model is not None
    return build(end.model, work.contents.model_weights(end.model))
