"""Students: distilled from the reinforced dataset, trained on the raw pairs, pretrained, or interpolated."""

from __future__ import annotations

import dagster as dg

from assets.materialize import define
from assets.metadata import pictures, table, training_metadata
from mobileclip2.config.profile import Profile
from mobileclip2.engine.graph import Asset
from mobileclip2.engine.pipeline import MaterializeResult, Pipeline


def student(profile: Profile, asset: Asset) -> dg.AssetsDefinition:
    """Define a student."""
    metadata = interpolation_metadata if profile.student(asset.name).between else training_metadata
    return define(profile, asset, section="students", kinds={"pytorch"}, metadata=metadata)


def interpolation_metadata(pipeline: Pipeline, result: MaterializeResult) -> dict[str, object]:
    """Return the points between two checkpoints, the picked weight, and a picture of the curve."""
    from mobileclip2.report.sheets import between_sheet

    rows, picked, picture = between_sheet(pipeline, result.asset.name)
    columns = [dg.TableColumn("weight", "float"), dg.TableColumn("set"), dg.TableColumn("main_metric", "float")]
    return {
        "picked_weight": picked,
        "points": table(columns, rows),
        **pictures(curve=picture),
    }
