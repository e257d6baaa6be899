"""Sensors: one observes the inputs and the store; the other, off by default, requests runs for assets that are not current.

Both compare the state of the store with the profile and do not depend on events. After a missed event, a failed run or a
stopped daemon, the next tick makes a new plan.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import dagster as dg
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES

from assets.code_version import code_versions
from assets.keys import dagster_key, library_key
from mobileclip2.asset_key import AssetKey
from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.fingerprint import fingerprint
from mobileclip2.store.lease import is_held
from pipelines.display import label_of
from pipelines.observe import report
from pipelines.processes import end_dead_runs
from pipelines.refresh import refresh_job

ATTEMPTS = 3
"""runs of an asset and group with the same inputs before the sensor gives up and reports it"""

EVERY_SECONDS = 30
OBSERVE_EVERY_SECONDS = 30

FINGERPRINT_TAG = "mobileclip2/fingerprint"
ATTEMPT_TAG = "mobileclip2/attempt"


@dataclass(frozen=True)
class Ready:
    """An asset and group that has missing slices and whose inputs are all stored."""

    asset: AssetKey
    group: str | None
    fingerprint: str
    """of all its slices, so that it stays the same when some of them have been computed"""
    missing: tuple[str, ...]
    """prefixes of the missing outputs in the store"""

    @property
    def label(self) -> str:
        """Return the label of the asset and group in messages."""
        return label_of(self.asset, self.group)


def ready(pipeline: Pipeline) -> Iterator[Ready]:
    """Yield each asset and group of the plan that can be computed now."""
    for asset, group in pipeline.stale():
        tasks = [pipeline.task_for(asset, slice_, group) for slice_ in asset.slices_of(group).values()]
        known = [task for task in tasks if task]
        if len(known) == len(tasks):
            identity = fingerprint({"group": group, "parts": {task.slice.name: task.fingerprint for task in known}})
            missing = set(pipeline.missing(asset, group))
            outputs = tuple(task.output.prefix for task in known if task.slice.name in missing)
            yield Ready(asset.key, group, identity, outputs)


def refresh_when_changed(loaded: Pipeline) -> dg.SensorDefinition:
    """Define the sensor that requests a run for every asset and group that is not current and can be computed."""

    @dg.sensor(
        asset_selection=dg.AssetSelection.all(),
        default_status=dg.DefaultSensorStatus.STOPPED,
        minimum_interval_seconds=EVERY_SECONDS,
        description=f"Computes what 'mobileclip2 plan' shows. Tries a failed run {ATTEMPTS} times.",
    )
    def refresh_when_changed(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        end_dead_runs(context.instance)
        pipeline = Pipeline(load(loaded.profile.file))
        if difference := _graph_difference(loaded, pipeline):
            return dg.SensorResult(
                skip_reason=f"{loaded.profile.file} has changed the graph ({difference}); reload the definitions",
                cursor=context.cursor,
            )
        return _requests(context, pipeline)

    return refresh_when_changed


def _graph_difference(loaded: Pipeline, now: Pipeline) -> str:
    """Return the changes since Dagster loaded the graph. It can run only the assets that it loaded."""
    gone = [f"without {key}" for key in loaded.graph if key not in now.graph]
    new = [f"with {key}" for key in now.graph if key not in loaded.graph]
    groups, before = now.profile.groups, loaded.profile.groups
    return ", ".join([*new, *gone, *([f"{groups} groups instead of {before}"] if groups != before else [])])


def _requests(context: dg.SensorEvaluationContext, pipeline: Pipeline) -> dg.SensorResult:
    candidates = list(ready(pipeline))
    unfinished = _unfinished(context.instance)
    if refreshing := [run for run in unfinished if run.job_name == refresh_job.name]:
        return dg.SensorResult(
            skip_reason=f"waiting for the refresh {refreshing[0].run_id[:8]} to end", cursor=context.cursor
        )
    started = _started(unfinished)
    runs = _runs_by_fingerprint(context.instance, candidates)
    earlier = json.loads(context.cursor or "{}")
    series, requests, waiting, given_up = {}, [], [], []
    for each in candidates:
        # count attempts since the pair became stale: an output that is lost again later gets new attempts
        recorded = earlier.get(each.label, {})
        runs_before = recorded["runs"] if recorded.get("fingerprint") == each.fingerprint else runs[each.fingerprint]
        series[each.label] = {"fingerprint": each.fingerprint, "runs": runs_before}
        attempt = runs[each.fingerprint] - runs_before + 1
        if (each.asset, each.group) in started or any(is_held(pipeline.storage, output) for output in each.missing):
            waiting.append(each.label)
        elif attempt > ATTEMPTS:
            given_up.append(each.label)
        else:
            requests.append(_request(each, attempt, runs[each.fingerprint]))
    message = _skip_message(waiting, given_up)
    if requests and message:
        context.log.warning(message)
    return dg.SensorResult(
        run_requests=requests or None,
        skip_reason=None if requests else message or "everything is current",
        cursor=json.dumps(series),
    )


def _unfinished(dagster: dg.DagsterInstance) -> list[dg.DagsterRun]:
    records = dagster.get_run_records(dg.RunsFilter(statuses=list(NOT_FINISHED_STATUSES)))
    return [record.dagster_run for record in records]


def _started(unfinished: list[dg.DagsterRun]) -> set[tuple[str, str | None]]:
    """Return (asset, group) of the runs that Dagster has queued or started.

    Runs of the command line and of a refresh are not included. They hold a lease instead.
    """
    return {
        (library_key(key), run.tags.get("dagster/partition"))
        for run in unfinished
        if run.remote_job_origin
        for key in run.asset_selection or ()
    }


def _runs_by_fingerprint(dagster: dg.DagsterInstance, candidates: list[Ready]) -> Counter[str]:
    """Return how many runs this sensor has requested for each fingerprint since it exists."""
    if not candidates:
        return Counter()
    filters = dg.RunsFilter(tags={FINGERPRINT_TAG: [each.fingerprint for each in candidates]})
    return Counter(record.dagster_run.tags[FINGERPRINT_TAG] for record in dagster.get_run_records(filters))


def _request(each: Ready, attempt: int, earlier: int) -> dg.RunRequest:
    return dg.RunRequest(
        run_key=f"{each.label} {each.fingerprint} {earlier + 1}",
        asset_selection=[dagster_key(each.asset)],
        partition_key=each.group,
        tags={
            FINGERPRINT_TAG: each.fingerprint,
            ATTEMPT_TAG: str(attempt),
            "dagster/max_retries": "0",  # the next tick tries again
        },
    )


def _skip_message(waiting: list[str], given_up: list[str]) -> str:
    messages = []
    if given_up:
        messages.append(
            f"given up after {ATTEMPTS} attempts: {', '.join(given_up)}; see why the last run failed, fix the cause "
            "and launch the job 'refresh'"
        )
    if waiting:
        messages.append(f"already queued or running: {', '.join(waiting)}")
    return "; ".join(messages)


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
        pipeline = Pipeline(load(loaded.profile.file))
        if fingerprint(code_versions(pipeline.graph)) != fingerprint(code_versions(loaded.graph)):
            return dg.SkipReason(f"{loaded.profile.file} has changed; reload the definitions")
        return dg.SkipReason(f"reported {report(pipeline, context.instance)} changes")

    return observe_changes
