"""Report to Dagster the versions of external inputs, and the stored outputs that its runs have not reported.

Dagster's staleness then equals the plan as far as Dagster can express it. The store can have other outputs than the last ones of
Dagster's history: after a change that was taken back, after new code that writes the same bytes, and from other machines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import dagster as dg

from assets.code_version import code_versions
from assets.inputs import MISSING, external_inputs, input_versions
from assets.keys import AssetPartition, dagster_key
from assets.materialize import OUTPUT_TAG, output_of
from mobileclip2.asset_key import AssetKey
from mobileclip2.engine.graph import Asset
from mobileclip2.engine.pipeline import MaterializeResult, Pipeline

DATA_VERSION = "dagster/data_version"
DATA_VERSION_IS_GIVEN = "dagster/data_version_is_user_provided"
CODE_VERSION = "dagster/code_version"
INPUT_VERSION = "dagster/input_data_version"
INPUT_EVENT = "dagster/input_event_pointer"


def report(pipeline: Pipeline, dagster: dg.DagsterInstance) -> int:
    """Observe all inputs, report the outputs of the store that Dagster has no event of, and return the number of events.

    Raises:
        UserError: The store cannot be read.
    """
    pipeline.forget()
    versions = input_versions(pipeline)
    events = observe(dagster, versions)
    if MISSING in versions.values():
        return events  # an output cannot be looked up without its inputs
    outputs = _Outputs(pipeline, dagster, versions)
    return events + sum(
        outputs.report(asset, group) for asset in pipeline.graph.values() for group in pipeline.groups(asset)
    )


def observe(dagster: dg.DagsterInstance, versions: Mapping[AssetPartition, str]) -> int:
    """Report the data versions of inputs that differ from the last observed ones, and return their number."""
    changed = 0
    for (key, partition), version in versions.items():
        where = dg.AssetRecordsFilter(key, asset_partitions=[partition] if partition else None)
        records = dagster.fetch_observations(where, limit=1).records
        last = records[0].event_log_entry.asset_observation if records else None
        if last is None or last.tags.get(DATA_VERSION) != version:
            tags = {DATA_VERSION: version}
            dagster.report_runless_asset_event(dg.AssetObservation(key, partition=partition, tags=tags))
            changed += 1
    return changed


class _Outputs:
    """Reports outputs of the store as materializations, in topological order."""

    def __init__(self, pipeline: Pipeline, dagster: dg.DagsterInstance, versions: Mapping[AssetPartition, str]) -> None:
        self._pipeline, self._dagster, self._inputs = pipeline, dagster, versions
        self._codes = code_versions(pipeline.graph)
        self._reported: set[AssetKey] = set()
        self._stored: dict[tuple[AssetKey, str | None], str] = {}

    def report(self, asset: Asset, group: str | None) -> bool:
        """Report an output that is stored and not the last one in Dagster's history. Return whether it was reported."""
        slices = asset.slices_of(group)
        found = {name: self._pipeline.summary(asset, slice_, group) for name, slice_ in slices.items()}
        summaries = {name: summary for name, summary in found.items() if summary}
        if len(summaries) < len(found):
            return False
        result = MaterializeResult(asset, group, summaries, [], 0)
        self._stored[asset.key, group] = result.data_version
        key = dagster_key(asset.key, self._pipeline.profile)
        tags = {
            DATA_VERSION: result.data_version,
            CODE_VERSION: self._codes[asset.key],
            OUTPUT_TAG: output_of(summaries),
        }
        where = dg.AssetRecordsFilter(key, asset_partitions=[group] if group else None)
        records = self._dagster.fetch_materializations(where, limit=1).records
        last = records[0].asset_materialization if records else None
        is_last = last is not None and last.tags is not None and tags.items() <= last.tags.items()
        # its event names an older event of an input that was reported just now
        if is_last and self._reported.isdisjoint(asset.upstream):
            return False
        self._dagster.report_runless_asset_event(
            dg.AssetMaterialization(
                key,
                description="Found in the store.",
                partition=group,
                metadata={"samples": result.samples},
                tags={**tags, DATA_VERSION_IS_GIVEN: "true", **self._input_tags(asset)},
            )
        )
        self._reported.add(asset.key)
        return True

    def _input_tags(self, asset: Asset) -> dict[str, str]:
        tags: dict[str, str] = {}
        for upstream in asset.upstream:
            key = dagster_key(upstream, self._pipeline.profile)
            records = self._dagster.fetch_materializations(key, limit=1).records
            tags |= _tags_of_input(key, self._stored.get((upstream, None)), records)
        for each in external_inputs(self._pipeline.profile, asset):
            records = self._dagster.fetch_observations(each.key, limit=1).records
            tags |= _tags_of_input(each.key, self._inputs.get((each.key, None)), records)
        return tags


def _tags_of_input(key: dg.AssetKey, version: str | None, records: Sequence[dg.EventLogRecord]) -> dict[str, str]:
    """Return the tags of an input. Dagster compares the events of a partitioned input, and the version of another one."""
    name = key.to_user_string()
    event = str(records[0].storage_id) if records else "NULL"
    return {f"{INPUT_VERSION}/{name}": version or f"event {event}", f"{INPUT_EVENT}/{name}": event}
