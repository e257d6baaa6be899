"""Collect the contents of the pipeline's report, and store the report beside the outputs."""

from __future__ import annotations

import datetime
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

from mobileclip2.asset_key import AssetKey
from mobileclip2.config.student import Student
from mobileclip2.data import sidecar
from mobileclip2.engine.graph import Asset
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.engine.shard_stage import SKIPPED
from mobileclip2.errors import UserError
from mobileclip2.extras import versions
from mobileclip2.report.filtering import filter_reports, selection_report
from mobileclip2.report.gallery import gather_gallery
from mobileclip2.report.page import EvaluatedModel, Tile, Training, write_page
from mobileclip2.report.pictures import SampleRow
from mobileclip2.report.pipeline import Curve, Report, Skip, Stage, render_pipeline
from mobileclip2.report.sheets import between_curve, rows, training_records
from mobileclip2.report.study import study_result
from mobileclip2.stages.stored_results import stored_results

SAMPLES = 8
SKIPS = 500
SOFTWARE = ("torch", "open_clip_torch", "timm", "dagster", "pyarrow", "pillow")
"""packages that results depend on"""


def store_report(pipeline: Pipeline) -> str:
    """Write the report of everything that is stored, and return its path or URL."""
    key = f"reports/{pipeline.profile.name}.html"
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        write_page(render_pipeline(gather(pipeline)), page)
        pipeline.storage.put(key, page)
    return f"{pipeline.storage.url}/{key}"


def gather(pipeline: Pipeline) -> Report:
    """Collect the report of all materialized assets."""
    profile = pipeline.profile
    models = evaluated_models(pipeline)
    return Report(
        title=f"MobileCLIP2 pipeline: {profile.name}",
        profile_name=profile.name,
        created=datetime.date.today().isoformat(),
        models=models,
        gallery=gather_gallery(pipeline, models),
        highlights=_highlights(models),
        trainings=_trainings(pipeline),
        studies=[study_result(pipeline, study.name) for study in profile.studies],
        curves=_curves(pipeline),
        filters=filter_reports(pipeline),
        selection=selection_report(pipeline),
        samples=_samples(pipeline),
        skips=_skips(pipeline),
        stages=[_stage(pipeline, asset) for asset in pipeline.graph.values()],
        profile=profile.public_text,
        software=versions(SOFTWARE),
    )


def evaluated_models(pipeline: Pipeline) -> list[EvaluatedModel]:
    """Return the evaluated teachers and students, in the order of the profile, with their results."""
    profile = pipeline.profile
    models = []
    for teacher in profile.teachers:
        if f"evaluation/{teacher.name}" in pipeline.graph and pipeline.is_current(f"evaluation/{teacher.name}"):
            models.append(EvaluatedModel(teacher.name, "teacher", stored_results(pipeline, teacher.name), "teacher"))
    for student in profile.students:
        if f"evaluation/{student.name}" in pipeline.graph and pipeline.is_current(f"evaluation/{student.name}"):
            (artifact,) = pipeline.read(f"student/{student.name}")
            facts = artifact.manifest.facts
            results, note = stored_results(pipeline, student.name), _origin(student, facts)
            models.append(EvaluatedModel(student.name, "student", results, note, facts.get("samples")))
    return models


def _origin(student: Student, facts: dict[str, Any]) -> str:
    if student.between:
        return f"weight {facts['weight']:g} of {student.between.to}"
    if not student.train:
        return "pretrained weights"
    return "trained on the raw pairs" if student.data == "raw" else "distilled from the reinforced dataset"


def _highlights(models: list[EvaluatedModel]) -> list[Tile]:
    """Return the difference of each distilled student to the student of the raw pairs, on the first evaluation set."""
    plain = next((model for model in models if model.note.endswith("raw pairs")), None)
    tiles = []
    for model in models:
        if plain and model.note.startswith("distilled") and model.results and plain.results:
            ours, theirs = model.results[0], plain.results[0]
            if ours.main is not None and theirs.main is not None:
                label = f"{model.name} against {plain.name} on {ours.key}, at equal steps"
                value = f"{(ours.main - theirs.main) * 100:+.1f} points"
                tiles.append(Tile(label, value, f"{ours.main:.1%} against {theirs.main:.1%}"))
    return tiles


def _trainings(pipeline: Pipeline) -> list[Training]:
    profile = pipeline.profile
    trained = [
        *((AssetKey.of("student", each.name), each.train) for each in profile.students),
        *((AssetKey.of("captioner", each.name), each.train) for each in profile.captioners),
        *((AssetKey.of("teacher", each.name), each.locked.train) for each in profile.teachers if each.locked),
    ]
    return [
        Training(key.name, training_records(pipeline, key), train.batch)
        for key, train in trained
        if train and pipeline.is_current(key)
    ]


def _curves(pipeline: Pipeline) -> list[Curve]:
    students = [student.name for student in pipeline.profile.students if student.between]
    return [Curve(name, *between_curve(pipeline, name)) for name in students if pipeline.is_current(f"student/{name}")]


def _samples(pipeline: Pipeline) -> list[SampleRow]:
    if "raw_shards" not in pipeline.graph:
        return []  # all data are published reinforced shards
    captioners = pipeline.profile.dataset_captioners
    group = pipeline.profile.group_names[0]
    try:
        return list(islice(rows(pipeline, group, views=True, captioners=captioners), SAMPLES))
    except UserError:
        return []


def _skips(pipeline: Pipeline) -> list[Skip]:
    skips: list[Skip] = []
    for asset in pipeline.graph.values():
        if not asset.grouped or not pipeline.is_current(asset.key):
            continue
        for artifact in pipeline.read(asset.key):
            for file in artifact.manifest.files:
                if file.name.endswith(SKIPPED) and len(skips) < SKIPS:
                    rows = sidecar.read(artifact.fetch(file.name)).to_pylist()
                    shard = file.name.removesuffix(SKIPPED)
                    skips += [Skip(asset.key, shard, row["key"], row["reason"], row["detail"]) for row in rows]
    return skips


def _stage(pipeline: Pipeline, asset: Asset) -> Stage:
    summaries = [pipeline.summary(asset, slice_, group) for slice_, group in pipeline.slices(asset)]
    times = [record["seconds"] for record in pipeline.times(asset.key)]
    return Stage(
        asset.key,
        [summary for summary in summaries if summary],
        asset.description,
        asset.code_version,
        asset.upstream,
        sum(times) if times else None,
    )
