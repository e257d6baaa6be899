"""Choose the models and sets of a gallery, and read their predictions from the store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.report.gallery import SETS, Gallery, gallery_set
from mobileclip2.report.page import EvaluatedModel
from mobileclip2.stages.evaluation import open_set


def gather_gallery(pipeline: Pipeline, models: Sequence[EvaluatedModel], student: str = "") -> Gallery | None:
    """Compare a student with the first teacher and the baseline on the same pictures.

    Args:
        models: the evaluated models of the profile.
        student: by default, the first student that is not the baseline.

    Returns:
        The gallery, or None if no student is evaluated.
    """
    students = {model.name: model for model in models if model.kind == "student"}
    named = pipeline.profile.gate.baseline
    raw = next((name for name, model in students.items() if model.note.endswith("raw pairs")), None)
    baseline = named if named in students else raw
    student = student or next((name for name in students if name != baseline), baseline or "")
    if student not in students:
        return None
    teacher = next((model for model in models if model.kind == "teacher"), None)
    notes = {teacher.name: "teacher"} if teacher else {}
    notes[student] = "student"
    if baseline and baseline != student:
        notes[baseline] = "baseline"
    results = {model.name: {result.key: result for result in model.results} for model in models if model.name in notes}
    shown, sets = Counter[str](), []
    for key in results[student]:
        opened = open_set(pipeline.profile, key)
        shared = {name: results[name][key] for name in notes if key in results[name]}
        if shown[opened.kind] < SETS and (part := gallery_set(opened, shared, student)):
            shown[opened.kind] += 1
            sets.append(part)
    return Gallery(notes, student, sets)
