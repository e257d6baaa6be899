"""Check before a run that the published weights of its stages are available."""

from __future__ import annotations

from collections.abc import Sequence

from mobileclip2.config.model import Model
from mobileclip2.config.profile import Profile
from mobileclip2.engine.graph import Asset
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.models.hub import check_published, is_published


def check_published_weights(pipeline: Pipeline, keys: Sequence[str]) -> None:
    """Check that the weights of missing assets are on this machine or on the hub.

    Raises:
        WeightsError: weights are unavailable.
    """
    for key in keys:
        model, field = _model(pipeline.profile, pipeline.graph[key])
        if model and is_published(model) and not pipeline.is_current(key):
            check_published(model, field)


def _model(profile: Profile, asset: Asset) -> tuple[Model | None, str]:
    """Return the model that a stage builds, or None, and the field of the profile that names it."""
    match asset.stage:
        case "teacher":
            return profile.teacher(asset.name).model, f"teachers.{asset.name}.model"
        case "captioner":
            return profile.captioner(asset.name).model, f"captioners.{asset.name}.model"
        case "student":
            return profile.student(asset.name).model, f"students.{asset.name}.model"
        case "study":
            return profile.student(profile.study(asset.name).student).model, f"studies.{asset.name}.student"
    return None, ""
