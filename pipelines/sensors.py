"""The sensor that keeps Dagster's view of inputs and outputs current."""

from __future__ import annotations

import dagster as dg

from assets.code_version import code_versions
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.fingerprint import fingerprint
from pipelines.observe import report
from pipelines.processes import end_dead_runs

OBSERVE_EVERY_SECONDS = 30


def observe_changes(loaded: Pipeline) -> dg.SensorDefinition:
    """Define the sensor that tells Dagster the versions of inputs and the outputs of the store."""

    @dg.sensor(
        asset_selection=dg.AssetSelection.all(),
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=OBSERVE_EVERY_SECONDS,
        description="Reports the versions of the inputs, and the outputs that the store has. Computes nothing.",
    )
    def observe_changes(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        end_dead_runs(context.instance)
        pipeline = Pipeline(loaded.profile.reload())
        if fingerprint(code_versions(pipeline.graph)) != fingerprint(code_versions(loaded.graph)):
            return dg.SkipReason(f"{loaded.profile.file} has changed; reload the definitions")
        return dg.SkipReason(f"reported {report(pipeline, context.instance)} changes")

    return observe_changes
