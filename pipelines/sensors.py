"""What Dagster's daemon does on its own: shows what is current, and, where a user turns it on, refreshes what is not.

Both sensors look at how things are and not at what has happened. An event that nobody saw, a run that failed or a daemon that
was down loses no update: the next tick plans anew.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import dagster as dg
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES

from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.fingerprint import fingerprint
from mobileclip2.store.lease import is_held
from pipelines.current import changed_evaluations
from pipelines.processes import end_dead_runs
from pipelines.refresh import refresh_job

ATTEMPTS = 3
"""runs of one asset and group from the same inputs, before the sensor gives up and says so"""

EVERY_SECONDS = 30
SHOW_EVERY_SECONDS = 30

FINGERPRINT_TAG = "mobileclip2/fingerprint"
ATTEMPT_TAG = "mobileclip2/attempt"


@dataclass(frozen=True)
class Ready:
    """An asset and group with parts missing, all of whose inputs are there."""

    asset: str
    group: str | None
    fingerprint: str
    """of all its parts: the same while only some of them have been computed"""
    missing: tuple[str, ...]
    """the outputs to be written, as the store names them"""

    @property
    def place(self) -> str:
        """Return the asset and its group for a message."""
        return f"{self.asset}{f' [{self.group}]' if self.group else ''}"


def ready(pipeline: Pipeline) -> Iterator[Ready]:
    """Return the part of the plan that can be computed now."""
    for asset, group in pipeline.stale():
        works = [pipeline.task_for(asset, part, group) for part in asset.parts_of(group).values()]
        there = [work for work in works if work]
        if len(there) == len(works):
            identity = fingerprint({"group": group, "parts": {work.part.name: work.fingerprint for work in there}})
            absent = set(pipeline.missing(asset, group))
            outputs = tuple(work.output.prefix for work in there if work.part.name in absent)
            yield Ready(asset.key, group, identity, outputs)


def refresh_when_changed(loaded: Pipeline) -> dg.SensorDefinition:
    """Request a run for every asset and group that can be computed now and is not current."""

    @dg.sensor(
        asset_selection=dg.AssetSelection.all(),
        default_status=dg.DefaultSensorStatus.STOPPED,
        minimum_interval_seconds=EVERY_SECONDS,
        description=f"Computes on its own what 'mobileclip2 plan' shows. What fails is tried {ATTEMPTS} times.",
    )
    def refresh_when_changed(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        end_dead_runs(context.instance)
        pipeline = Pipeline(load(loaded.profile.file))
        if difference := _other_assets(loaded, pipeline):
            return dg.SensorResult(
                skip_reason=f"{loaded.profile.file} has changed the graph ({difference}); reload the definitions",
                cursor=context.cursor,
            )
        return _requests(context, pipeline)

    return refresh_when_changed


def _other_assets(loaded: Pipeline, now: Pipeline) -> str:
    """How the graph differs from the one that Dagster has loaded, which is the only one it starts runs of."""
    gone = [f"without {key}" for key in loaded.graph if key not in now.graph]
    new = [f"with {key}" for key in now.graph if key not in loaded.graph]
    groups, before = now.profile.groups, loaded.profile.groups
    return ", ".join([*new, *gone, *([f"{groups} groups instead of {before}"] if groups != before else [])])


def _requests(context: dg.SensorEvaluationContext, pipeline: Pipeline) -> dg.SensorResult:
    found = list(ready(pipeline))
    unfinished = _unfinished(context.instance)
    if refreshing := [run for run in unfinished if run.job_name == refresh_job.name]:
        return dg.SensorResult(
            skip_reason=f"waiting for the refresh {refreshing[0].run_id[:8]} to end", cursor=context.cursor
        )
    started = _started(unfinished)
    runs = _runs_by_fingerprint(context.instance, found)
    earlier = json.loads(context.cursor or "{}")
    series, requests, waiting, given_up = {}, [], [], []
    for each in found:
        # attempts count from when it ceased to be current: bytes that are lost again months later are a new case
        known = earlier.get(each.place, {})
        begun = known["runs"] if known.get("fingerprint") == each.fingerprint else runs[each.fingerprint]
        series[each.place] = {"fingerprint": each.fingerprint, "runs": begun}
        attempt = runs[each.fingerprint] - begun + 1
        if (each.asset, each.group) in started or any(is_held(pipeline.storage, output) for output in each.missing):
            waiting.append(each.place)
        elif attempt > ATTEMPTS:
            given_up.append(each.place)
        else:
            requests.append(_request(each, attempt, runs[each.fingerprint]))
    told = _told(waiting, given_up)
    if requests and told:
        context.log.warning(told)
    return dg.SensorResult(
        run_requests=requests or None,
        skip_reason=None if requests else told or "everything is current",
        cursor=json.dumps(series),
    )


def _unfinished(dagster: dg.DagsterInstance) -> list[dg.DagsterRun]:
    records = dagster.get_run_records(dg.RunsFilter(statuses=list(NOT_FINISHED_STATUSES)))
    return [record.dagster_run for record in records]


def _started(unfinished: list[dg.DagsterRun]) -> set[tuple[str, str | None]]:
    """(asset, group) of the runs that Dagster has queued or started.

    Those of a command line or a refresh are not among them: while they work they hold a lease.
    """
    return {
        (key.to_user_string(), run.tags.get("dagster/partition"))
        for run in unfinished
        if run.remote_job_origin
        for key in run.asset_selection or ()
    }


def _runs_by_fingerprint(dagster: dg.DagsterInstance, found: list[Ready]) -> Counter[str]:
    """How many runs this sensor has ever requested for each fingerprint."""
    if not found:
        return Counter()
    wanted = dg.RunsFilter(tags={FINGERPRINT_TAG: [each.fingerprint for each in found]})
    return Counter(record.dagster_run.tags[FINGERPRINT_TAG] for record in dagster.get_run_records(wanted))


def _request(each: Ready, attempt: int, earlier: int) -> dg.RunRequest:
    return dg.RunRequest(
        run_key=f"{each.place} {each.fingerprint} {earlier + 1}",
        asset_selection=[dg.AssetKey(each.asset.split("/"))],
        partition_key=each.group,
        tags={
            FINGERPRINT_TAG: each.fingerprint,
            ATTEMPT_TAG: str(attempt),
            "dagster/max_retries": "0",  # the next tick tries again
        },
    )


def _told(waiting: list[str], given_up: list[str]) -> str:
    told = []
    if given_up:
        told.append(
            f"given up after {ATTEMPTS} attempts: {', '.join(given_up)}; see why the last run failed, mend the cause "
            "and launch the job 'refresh'"
        )
    if waiting:
        told.append(f"already queued or running: {', '.join(waiting)}")
    return "; ".join(told)


def show_what_is_current(loaded: Pipeline) -> dg.SensorDefinition:
    """Keep the check ``current`` of every asset true. Write what has changed, and compute nothing."""

    @dg.sensor(
        asset_selection=dg.AssetSelection.all(),
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=SHOW_EVERY_SECONDS,
        description="Keeps the check 'current' of every asset true. Computes nothing.",
    )
    def show_what_is_current(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        end_dead_runs(context.instance)
        pipeline = Pipeline(load(loaded.profile.file))
        changed = changed_evaluations(pipeline, context.instance)
        return dg.SensorResult(asset_events=changed)

    return show_what_is_current
