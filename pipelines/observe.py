"""Report to Dagster the versions of external inputs, and the stored outputs that its runs have not reported.

Dagster's staleness then equals the plan as far as Dagster can express it. The store can have other outputs than the last ones of
Dagster's history: after a change that was taken back, after new code that writes the same bytes, and from other machines.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

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

MATERIALIZED, OBSERVED = dg.DagsterEventType.ASSET_MATERIALIZATION, dg.DagsterEventType.ASSET_OBSERVATION


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
    return events + sum(map(outputs.report, pipeline.graph.values()))


def observe(dagster: dg.DagsterInstance, versions: Mapping[AssetPartition, str]) -> int:
    """Report the data versions of inputs that differ from the last observed ones, and return their number."""
    changed = 0
    for key in dict.fromkeys(key for key, _ in versions):
        observed = {partition: version for (each, partition), version in versions.items() if each == key}
        last = _last_records(dagster, OBSERVED, key, observed)
        for partition, version in observed.items():
            event = last[partition].event_log_entry.asset_observation if partition in last else None
            if event is None or event.tags.get(DATA_VERSION) != version:
                tags = {DATA_VERSION: version}
                dagster.report_runless_asset_event(dg.AssetObservation(key, partition=partition, tags=tags))
                changed += 1
    return changed


def _last_records(
    dagster: dg.DagsterInstance, kind: dg.DagsterEventType, key: dg.AssetKey, partitions: Collection[str | None]
) -> dict[str | None, dg.EventLogRecord]:
    """Return the last event of each partition, with two queries for all of them. The last of all events has the key None."""
    fetch = dagster.fetch_observations if kind == OBSERVED else dagster.fetch_materializations
    if None in partitions:
        records = fetch(key, limit=1).records
        return {None: records[0]} if records else {}
    last = list(dagster.get_latest_storage_id_by_partition(key, kind).values())
    records = fetch(dg.AssetRecordsFilter(key, storage_ids=last), limit=len(last)).records if last else []
    return {record.partition_key: record for record in records}


class _Outputs:
    """Reports outputs of the store as materializations, in topological order."""

    def __init__(self, pipeline: Pipeline, dagster: dg.DagsterInstance, versions: Mapping[AssetPartition, str]) -> None:
        self._pipeline, self._dagster, self._inputs = pipeline, dagster, versions
        self._codes = code_versions(pipeline.graph)
        self._reported: set[AssetKey] = set()
        self._stored: dict[tuple[AssetKey, str | None], str] = {}

    def report(self, asset: Asset) -> int:
        """Report outputs that are stored and not the last ones in Dagster's history, and return their number."""
        changed, input_tags = 0, dict[str, str]()
        key, groups = dagster_key(asset.key, self._pipeline.profile), self._pipeline.groups(asset)
        last = _last_records(self._dagster, MATERIALIZED, key, groups)
        for group in groups:
            slices = asset.slices_of(group)
            found = {name: self._pipeline.summary(asset, slice_, group) for name, slice_ in slices.items()}
            summaries = {name: summary for name, summary in found.items() if summary}
            if len(summaries) < len(found):
                continue
            result = MaterializeResult(asset, group, summaries, [], 0)
            self._stored[asset.key, group] = result.data_version
            code, output = self._codes[asset.key], output_of(summaries)
            tags = {DATA_VERSION: result.data_version, CODE_VERSION: code, OUTPUT_TAG: output}
            event = last[group].asset_materialization if group in last else None
            is_last = event is not None and event.tags is not None and tags.items() <= event.tags.items()
            # its event names an older event of an input that was reported just now
            if is_last and self._reported.isdisjoint(asset.upstream):
                continue
            input_tags = input_tags or self._input_tags(asset)
            self._dagster.report_runless_asset_event(
                dg.AssetMaterialization(
                    key,
                    description="Found in the store.",
                    partition=group,
                    metadata={"samples": result.samples},
                    tags={**tags, DATA_VERSION_IS_GIVEN: "true", **input_tags},
                )
            )
            self._reported.add(asset.key)
            changed += 1
        return changed

    def _input_tags(self, asset: Asset) -> dict[str, str]:
        """Return the tags of the inputs. Dagster compares the events of a partitioned input, and the version of another one."""
        profile = self._pipeline.profile
        inputs = [(MATERIALIZED, dagster_key(key, profile), self._stored.get((key, None))) for key in asset.upstream]
        external = [each.key for each in external_inputs(profile, asset)]
        inputs += [(OBSERVED, key, self._inputs.get((key, None))) for key in external]
        tags: dict[str, str] = {}
        for kind, key, version in inputs:
            last = _last_records(self._dagster, kind, key, [None])
            name, event = key.to_user_string(), str(last[None].storage_id) if last else "NULL"
            tags |= {f"{INPUT_VERSION}/{name}": version or f"event {event}", f"{INPUT_EVENT}/{name}": event}
        return tags
