"""The sensor that keeps Dagster's view of inputs and outputs current."""

from __future__ import annotations

import dagster as dg

from assets.code_version import code_versions
from assets.keys import named
from mobileclip2.config.profile import Profile
from mobileclip2.engine.graph import build_graph
from mobileclip2.engine.pipeline import Pipeline
from pipelines.observe import report
from pipelines.processes import end_dead_runs


def observe_changes(loaded: Profile) -> dg.SensorDefinition:
    """Define the sensor that reports the versions of inputs and the stored outputs."""
    versions = code_versions(build_graph(loaded))
    prefix = loaded.key_prefix

    @dg.sensor(
        name=named("observe_changes", loaded),
        asset_selection=dg.AssetSelection.key_prefixes(prefix) if prefix else dg.AssetSelection.all(),
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=30,
        description="Reports the versions of the inputs, and the outputs that the store has. Computes nothing.",
    )
    def observe_changes(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        end_dead_runs(context.instance)
        pipeline = Pipeline(loaded.reload())
        if code_versions(pipeline.graph) != versions:
            return dg.SkipReason(f"{loaded.file} has changed; reload the definitions")
        return dg.SkipReason(f"reported {report(pipeline, context.instance)} changes")

    return observe_changes
