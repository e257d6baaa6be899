"""Collect the contents of a student's report, and measure its latency."""

from __future__ import annotations

import datetime
import zlib
from collections.abc import Sequence

from mobileclip2.config.evaluation_tasks import TASKS, averages
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.errors import UserError
from mobileclip2.evaluation.gate import compare
from mobileclip2.evaluation.latency import Latency, measure_latency
from mobileclip2.evaluation.results import Result
from mobileclip2.evaluation.sets import EvaluationSet
from mobileclip2.extras import versions
from mobileclip2.models.device import choose_device
from mobileclip2.report import examples
from mobileclip2.report.gallery import gather_gallery
from mobileclip2.report.gather import SOFTWARE, evaluated_models
from mobileclip2.report.page import Training
from mobileclip2.report.sheets import training_records
from mobileclip2.report.student import METRIC_NAMES, SetExamples, StudentReport
from mobileclip2.stages.evaluation_sets import open_set
from mobileclip2.stages.load_model import load_image_text
from mobileclip2.stages.stored_results import stored_results

FAILURES = 12
SUCCESSES = 4
IMAGES = 480
"""total number of failures and successes, which limits the page of the complete suite to a few megabytes"""


def gather_student(pipeline: Pipeline, name: str) -> StudentReport:
    """Collect the report of an evaluated student, and compare it with the other evaluated students of the profile.

    Raises:
        UserError: The profile has no such student, or the student is not evaluated.
    """
    profile = pipeline.profile
    check_student(pipeline, name)
    if f"evaluation/{name}" not in pipeline.graph:
        raise UserError(f"report {name}: the profile has no evaluation sets; add some under 'evaluation'")
    results = stored_results(pipeline, name)
    shown = profile.gate.model_copy(update={"tolerance": dict.fromkeys(METRIC_NAMES, 0.0)})
    models = evaluated_models(pipeline)
    students = {model.name: model for model in models if model.kind == "student"}
    mains = {key: _mains(model.results) for key, model in students.items()}
    axis = next((key for key in ("average", "imagenet1k") if key in mains[name]), results[0].key)
    student = profile.student(name)
    return StudentReport(
        name=name,
        profile_name=profile.name,
        created=datetime.date.today().isoformat(),
        note=students[name].note,
        samples_seen=students[name].samples_seen,
        rows=compare(results, None, shown).rows,
        confidence=profile.gate.confidence,
        latencies={key: latency_of(pipeline, key) for key in [name, *(key for key in students if key != name)]},
        axis=axis,
        mains={key: metrics[axis] for key, metrics in mains.items() if axis in metrics},
        training=Training(
            name, training_records(pipeline, f"student/{name}"), student.train.batch if student.train else 0
        ),
        teachers=[model for model in models if model.kind == "teacher"],
        gallery=gather_gallery(pipeline, models, name),
        sets=[
            _examples(open_set(profile, result.key), result, profile.gate.confidence, len(results))
            for result in results
        ],
        software=versions(SOFTWARE),
    )


def check_student(pipeline: Pipeline, name: str) -> None:
    """Raise ``UserError`` if the profile has no such student."""
    names = [student.name for student in pipeline.profile.students]
    if name not in names:
        raise UserError(
            f"'{name}': the profile has no such student; it has {', '.join(names) or 'no students'}; correct the name"
        )


def latency_of(pipeline: Pipeline, name: str) -> Latency:
    """Measure the latency of a trained student on the profile's device.

    Raises:
        UserError: The student is not trained yet.
    """
    check_student(pipeline, name)
    (artifact,) = pipeline.read(f"student/{name}")
    return measure_latency(load_image_text(artifact, pipeline.inventory), choose_device(pipeline.profile.device))


def _mains(results: Sequence[Result]) -> dict[str, float]:
    mains = {result.key: result.main for result in results}
    return {**{key: value for key, value in mains.items() if value is not None}, **averages(mains)}


def _examples(set_: EvaluationSet, result: Result, confidence: float, sets: int) -> SetExamples:
    assert result.samples is not None
    task = TASKS.get(result.key)
    common = {
        "name": task.name if task else result.key,
        "samples": result.samples.num_rows,
        "splits": examples.splits(set_, result, confidence, (0, zlib.crc32(result.key.encode()))),
    }
    match set_.kind:
        case "classification":
            share = min(1.0, IMAGES / (sets * (FAILURES + SUCCESSES)))
            failures, successes = examples.classified(
                set_, result, max(2, int(share * FAILURES)), max(1, int(share * SUCCESSES))
            )
            return SetExamples(
                **common,
                failures=failures,
                successes=successes,
                wrong=sum(rank > 0 for rank in result.samples.column("rank").to_pylist()),
                confusions=examples.confusions(set_, result),
                classnames=set_.classnames,
                matrix=examples.confusion_shares(set_, result),
            )
        case "retrieval":
            return SetExamples(**common, retrieved=examples.retrieved(set_, result))
        case "association":
            return SetExamples(**common, associations=examples.associations(set_, result))
        case "faces":
            return SetExamples(**common)
