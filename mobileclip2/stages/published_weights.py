"""Check before a run that the published models of its stages are available, and record their commits."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from mobileclip2.config.model import Model
from mobileclip2.config.profile import Profile
from mobileclip2.config.teacher import Locked
from mobileclip2.engine.graph import Asset
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.errors import WeightsError
from mobileclip2.models.hub import find


def check_published_weights(
    pipeline: Pipeline, keys: Sequence[str], *, stored: bool = False
) -> dict[str, dict[str, str]]:
    """Check that the published models of missing assets are on this machine or on the hub. Download no weights.

    Args:
        stored: also look up the models of stored assets, to warn if their names have moved. They need not be available.

    Returns:
        Commit by repository, for each field of the profile that names a model of the hub.

    Raises:
        WeightsError: a weight file, a tokenizer or a configuration is unavailable. The run did not start.
    """
    commits: dict[str, dict[str, str]] = {}
    resolved = False
    for key in keys:
        asset = pipeline.graph[key]
        if spec := _hub_towers(pipeline.profile, asset):
            if any(pipeline.missing(asset, group) for group in pipeline.groups(asset)):
                # timm, which knows the repositories, imports torch
                from mobileclip2.teachers.hub_towers import find_towers

                field = f"teachers.{asset.name}.locked"
                commits[field] = {listed.repository: listed.commit for _, listed in find_towers(spec, field)}
            continue
        model, field = model_of(pipeline.profile, asset)
        if not model or not (model.hub or model.tag) or field in commits:
            continue
        if pipeline.is_current(key):
            if stored and model.hub:
                commits[field] = pipeline.inventory.hub.recorded(model)
                with suppress(WeightsError):
                    pipeline.inventory.hub.resolve(model, field)
            continue
        if model.hub:
            resolved |= not pipeline.inventory.hub.recorded(model)
            commits[field] = pipeline.inventory.hub.resolve(model, field)
        else:
            find(model, field, {})
    if resolved:  # fingerprints contain the commits
        pipeline.forget()
    return commits


def _hub_towers(profile: Profile, asset: Asset) -> Locked | None:
    """Return a locked teacher that has a tower from the hub, or None."""
    spec = profile.teacher(asset.name).locked if asset.stage == "teacher" else None
    return spec if spec and (spec.text or spec.trunk_weights.tag) else None


def model_of(profile: Profile, asset: Asset) -> tuple[Model | None, str]:
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
