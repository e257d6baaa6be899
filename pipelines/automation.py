"""Declarative automation: compute an asset and group as soon as everything that it reads is stored. Off by default.

The condition compares the profile with the store and does not depend on events. A change that happens while a sensor is off, or
a daemon is stopped, is found at the next tick.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import dagster as dg

from assets.keys import AssetPartition, dagster_key, named
from mobileclip2.config.profile import Profile
from mobileclip2.engine.graph import build_graph
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.store.lease import is_held

STAGES = {
    "embed_when_a_teacher_changes": {"teacher_embeddings", "reinforced_dataset"},
    "train_when_the_dataset_changes": {"student", "study"},
    "evaluate_when_a_student_changes": {"evaluation"},
}
"""stages that a sensor computes"""
OTHER_STAGES = "prepare_when_inputs_change"
"""name of the sensor for all other stages"""


class IsReady(dg.AutomationCondition[dg.AssetKey]):
    """True for a group that has missing slices and whose inputs are all stored. False while another run computes it."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._ready: set[AssetPartition] = set()
        self._evaluated: datetime | None = None

    @property
    def description(self) -> str:
        """Return the sentence that the UI shows."""
        return "The plan contains it, and everything that it reads is stored"

    def evaluate(self, context: dg.AutomationContext[dg.AssetKey]) -> dg.AutomationResult[dg.AssetKey]:
        """Compare the store with the profile, once for all assets of a tick."""
        if self._evaluated != context.evaluation_time:
            self._ready = set(ready(Pipeline(self._profile.reload())))
            self._evaluated = context.evaluation_time
        view, key, partitions = context.asset_graph_view, context.key, context.partitions_def
        if partitions is not None:
            groups = {group for group in partitions.get_partition_keys() if (key, group) in self._ready}
            subset = view.get_subset_from_partition_keys(key, partitions, groups)
        else:
            is_ready = (key, None) in self._ready
            subset = view.get_full_subset(key=key) if is_ready else view.get_empty_subset(key=key)
        return dg.AutomationResult(context, true_subset=subset)


def ready(pipeline: Pipeline) -> Iterator[AssetPartition]:
    """Yield each asset and group that can be computed now and that no run computes."""
    for asset, group in pipeline.stale():
        missing = pipeline.missing(asset, group)
        tasks = [pipeline.task_for(asset, slice_, group) for slice_ in asset.slices_of(group).values()]
        outputs = [task.output.prefix for task in tasks if task and task.slice.name in missing]
        if all(tasks) and not any(is_held(pipeline.storage, output) for output in outputs):
            yield dagster_key(asset.key, pipeline.profile), group


def compute_when_ready(profile: Profile) -> dg.AutomationCondition[dg.AssetKey]:
    """Return the condition of all assets. A failed run is not repeated until the code or an input changes."""
    condition = dg.AutomationCondition
    failed = condition.execution_failed()
    changed = condition.code_version_changed() | condition.any_deps_match(condition.data_version_changed())
    changed_since_failure = changed.since(failed.newly_true() | condition.newly_requested())
    return IsReady(profile) & ~condition.in_progress() & (~failed | changed_since_failure)


def automation(profile: Profile) -> list[dg.SensorDefinition]:
    """Define the sensors that evaluate the conditions. Each asset has one."""
    sensor_of = {stage: name for name, stages in STAGES.items() for stage in stages}
    keys: dict[str, list[dg.AssetKey]] = {}
    for asset in build_graph(profile).values():
        keys.setdefault(sensor_of.get(asset.stage, OTHER_STAGES), []).append(dagster_key(asset.key, profile))
    return [
        dg.AutomationConditionSensorDefinition(
            named(name, profile),
            target=dg.AssetSelection.assets(*selected),
            default_status=dg.DefaultSensorStatus.STOPPED,
            minimum_interval_seconds=30,
            description="Computes what 'mobileclip2 plan' shows, as soon as its inputs are stored.",
            # the condition reads the store, which the daemon cannot
            use_user_code_server=True,
        )
        for name, selected in keys.items()
    ]
