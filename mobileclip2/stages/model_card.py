"""Write the model card of an export from the store and the profile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mobileclip2.asset_key import AssetKey
from mobileclip2.config.captioner import Captioner
from mobileclip2.config.model import Model
from mobileclip2.config.profile import Profile
from mobileclip2.config.sources import Corpus, ReinforcedShards, Source
from mobileclip2.config.student import Student
from mobileclip2.config.teacher import Teacher
from mobileclip2.engine.graph import RAW_SHARDS
from mobileclip2.engine.lineage import Lineage, branches
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.engine.trace import lineage_of
from mobileclip2.errors import UserError
from mobileclip2.evaluation.results import MAIN_METRIC
from mobileclip2.export.parity import Parity
from mobileclip2.export.write import NEEDS, render
from mobileclip2.extras import versions
from mobileclip2.models.image_text import ImageText
from mobileclip2.stages.stored_results import stored_results

SOFTWARE = ("torch", "open_clip_torch", "timm", "onnx", "onnxruntime", "coremltools")


@dataclass(frozen=True)
class Exported:
    """A written export and its parity with the trained model."""

    folder: Path
    kind: str
    int8: bool
    image_text: ImageText
    parity: Sequence[Parity]
    bytes: dict[str, int]
    """sizes by file or Core ML package"""
    architecture: Path | None
    """module that the image tower needs and that is copied into the export"""


@dataclass(frozen=True)
class Ingredient:
    """A data set, teacher, captioner or student in the lineage of the exported student."""

    name: str
    description: str
    license: str


def card(pipeline: Pipeline, name: str, exported: Exported) -> str:
    """Return the model card of a student as Markdown."""
    key, student = AssetKey.of("student", name), pipeline.profile.student(name)
    found = lineage_of(pipeline, key)
    (stored,) = pipeline.read(key)
    return render(
        Path(__file__).with_name("card.md.j2"),
        student=student,
        exported=exported,
        needs=NEEDS.get(exported.kind),
        model=_origin(student),
        embed_dim=exported.image_text.embed_dim,
        parameters=stored.summary.facts.get("parameters"),
        context=getattr(exported.image_text.tokenize, "context_length", None),
        samples=_samples(pipeline, found),
        ingredients=_ingredients(pipeline.profile, found),
        metrics=_metrics(pipeline, name),
        assets=branches(found),
        fingerprint=found.nodes[next(reversed(found.nodes))].fingerprint,
        software=versions(SOFTWARE),
    )


def _samples(pipeline: Pipeline, found: Lineage) -> dict[str, int]:
    """Count the validated pairs of the shards and corpora in a lineage."""
    keys = dict.fromkeys(node.asset for node in found.nodes.values())
    return {
        key: sum(artifact.summary.samples for artifact in pipeline.read(key))
        for key in keys
        if key.stage in {"raw_shards", "caption_corpus", "reinforced_shards"}
    }


def _ingredients(profile: Profile, found: Lineage) -> list[Ingredient]:
    """List the data, teachers, captioners and earlier students of a lineage."""
    assets = {node.asset for node in found.nodes.values()}
    rows: list[tuple[str, str, Corpus | Source | ReinforcedShards | Teacher | Captioner | Student, str]] = [
        *(("source", "raw_shards", each, "image-text pairs") for each in profile.sources),
        *(("dataset", "reinforced_shards", each, _published(each)) for each in profile.reinforced),
        *(("caption corpus", "caption_corpus", each, "clean image-caption pairs") for each in profile.caption_corpora),
        *(("teacher", "teacher", each, _teacher(each)) for each in profile.teachers),
        *(("captioner", "captioner", each, _captioner(each)) for each in profile.captioners),
        *(("student", "student", each, _student(each)) for each in profile.students),
    ]
    return [
        Ingredient(f"{kind} {each.name}", description, each.license or "not stated")
        for kind, stage, each, description in rows
        # all sources are in one asset
        if (RAW_SHARDS if stage == "raw_shards" else AssetKey.of(stage, each.name)) in assets
    ]


def _architecture(model: Model) -> str:
    """Describe a model in a few words. The text contains no local paths."""
    if model.open_clip:
        name = model.open_clip
    else:
        vision = (model.config or {}).get("vision_cfg", {})
        name = vision.get("timm_model_name") or "a ViT written out in the profile"
    if not model.weights:
        return f"{name}, its own weights" if name.startswith("hf-hub:") else f"{name}, from random weights"
    weights = model.weights
    origin = weights.tag or (f"{weights.package}/{weights.file}" if weights.package else Path(weights.path or "").name)
    return f"{name}, weights {origin}" + (f" (sha256 {weights.sha256[:16]})" if weights.sha256 else "")


def _origin(student: Student) -> str:
    if student.model:
        return _architecture(student.model)
    return f"as student {student.between.to if student.between else student.base}"


def _teacher(teacher: Teacher) -> str:
    scale = f"; logit scale {teacher.logit_scale:g}" if teacher.logit_scale else ""
    if teacher.model:
        return _architecture(teacher.model) + scale
    assert teacher.locked
    return f"locked towers {teacher.locked.trunk} and a text encoder under trained projections{scale}"


def _published(source: ReinforcedShards) -> str:
    teachers = ", ".join(f"{teacher.name} (logit scale {teacher.logit_scale:g})" for teacher in source.teachers)
    return f"published reinforced shards with embeddings of {teachers}"


def _captioner(captioner: Captioner) -> str:
    if captioner.model:
        description = _architecture(captioner.model)
    else:
        description = f"captioner {captioner.base}" if captioner.base else "a small CoCa"
    return description + (f", trained on {captioner.train_on}" if captioner.train_on else "")


def _student(student: Student) -> str:
    if student.between:
        return f"weights between those that {student.between.to} started from and ended with"
    if not student.train:
        return "given weights, not trained"
    steps = f"{student.train.total_steps:,} steps of {student.train.batch:,} on {student.data} data"
    return steps + (f", from student {student.base}" if student.base else "")


def _metrics(pipeline: Pipeline, name: str) -> list[tuple[str, str, float]]:
    """Return (set, metric, value) of the evaluation, or an empty list before it is complete."""
    try:
        results = stored_results(pipeline, name) if f"evaluation/{name}" in pipeline.graph else []
    except UserError:
        return []
    return [
        (result.key, metric, value)
        for result in results
        for metric, value in result.metrics.items()
        if metric != MAIN_METRIC and value is not None
    ]
