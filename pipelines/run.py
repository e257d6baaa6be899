"""Materialize what is missing through Dagster, in one run for each asset and group, and show the progress."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from typing import Any, Protocol

from rich.console import Console

from mobileclip2.extras import needs

with needs("pipeline"):
    import dagster as dg

from assets.keys import dagster_key
from mobileclip2.engine.graph import Asset
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.engine.plan import selected
from mobileclip2.errors import UserError
from mobileclip2.progress import Step, doing
from mobileclip2.stages.published_weights import check_published_weights
from pipelines.asset_definitions import stages
from pipelines.display import Display, label_of
from pipelines.instance import instance
from pipelines.launched import execute_launched, is_launched
from pipelines.observe import report
from pipelines.processes import PROCESS_TAG, this_process
from pipelines.supervise import KEPT


class RunObserver(Protocol):
    """Receives the progress of a refresh. A label names an asset and its group."""

    def begin(self, label: str) -> None:
        """Receive the start of a run."""

    def step(self, step: Step) -> None:
        """Receive the progress within a run."""

    def end(self, label: str) -> None:
        """Receive the end of a run. An asset and group that was already stored has no ``begin``."""


class RunDisplay(RunObserver, Protocol):
    """Shows a refresh: a :class:`~pipelines.display.Display`, or the channel to the one of the parent process."""

    def plan(self, total: int) -> None:
        """Set the number of asset-group pairs."""

    def say(self, text: str) -> None:
        """Write a permanent line."""


def run(pipeline: Pipeline, only: list[str] | None = None, display: RunDisplay | None = None) -> int:
    """Call :func:`refresh` with the instance of this checkout, and show its progress, by default as lines of a log."""
    logging.getLogger("dagster").setLevel(logging.ERROR)
    display = display or Display(Console(file=sys.stderr, force_terminal=False))
    with doing("planning"):
        keys = selected(pipeline, only)
        total = sum(len(pipeline.groups(pipeline.graph[key])) for key in keys)
        display.plan(total)
    with doing("opening Dagster's history"):
        dagster = instance()
    with dagster:
        runs = refresh(pipeline, dagster, only, display)
    if runs:
        stored = f"; {total - runs} were already stored" if runs < total else ""
        display.say(f"computed {runs} asset-group pairs{stored}")
    else:
        display.say(f"nothing to compute: all {total} asset-group pairs are stored")
    return runs


def refresh(
    pipeline: Pipeline,
    dagster: dg.DagsterInstance,
    only: list[str] | None,
    observer: RunObserver,
    tags: dict[str, str] | None = None,
    parent: dg.DagsterRun | None = None,
) -> int:
    """Materialize every missing slice in order, tell Dagster what the store has, and return the number of runs.

    Args:
        only: Keys of the assets to compute, with their upstream assets. Default: all.
        parent: The run that this refresh is part of. In a cluster, it launches a run for each pair.

    Raises:
        UserError: A stage failed. Finished shards are kept.
    """
    repository = stages(pipeline.profile, observer.step).get_repository_def()
    if not (pipeline.profile.compute.kubernetes and parent and is_launched(parent)):
        parent = None
    runs = 0
    keys = selected(pipeline, only)
    if parent is None:  # in a cluster, the weights are in the image of the runs
        check_published_weights(pipeline, keys)
    try:
        with pipeline.hold() as lease:
            for asset in [pipeline.graph[key] for key in keys]:
                for group in pipeline.groups(asset):
                    label = label_of(asset.key, group)
                    lease.check()
                    with doing("reading the store"):
                        missing = pipeline.missing(asset, group)
                    if missing:
                        observer.begin(label)
                        materialize(repository, dagster, asset, group, tags, parent)
                        pipeline.invalidate_downstream(asset, group)
                        runs += 1
                    observer.end(label)
    finally:
        # the failed stage has already reported a missing external input
        with suppress(UserError), doing("reporting to Dagster"):
            report(pipeline, dagster)
    return runs


def materialize(
    repository: dg.RepositoryDefinition,
    dagster: dg.DagsterInstance,
    asset: Asset,
    group: str | None,
    tags: dict[str, str] | None = None,
    parent: dg.DagsterRun | None = None,
) -> None:
    """Execute one Dagster run for an asset and group: in this process, or launched from the origin of ``parent``.

    Raises:
        UserError: The run failed or was canceled. The message contains the cause.
        KeyboardInterrupt: The run was interrupted in this process. Dagster records it as canceled.
    """
    key = dagster_key(asset.key)
    job = repository.get_implicit_global_asset_job_def()
    # the caller shows the failure, and would not wait for a retry
    tags = {**(tags or {}), "dagster/max_retries": "0"}
    if parent:
        run = execute_launched(parent, job, dagster, key, group, tags)
    else:
        run = _execute_here(job, dagster, key, group, tags)
    if run.status != dg.DagsterRunStatus.SUCCESS:
        raise UserError(f"{label_of(asset.key, group)}: {_cause(dagster, run)}")


def _execute_here(
    job: dg.JobDefinition, dagster: dg.DagsterInstance, key: dg.AssetKey, group: str | None, tags: dict[str, str]
) -> dg.DagsterRun:
    result = job.execute_in_process(
        instance=dagster,
        asset_selection=[key],
        partition_key=group,
        raise_on_error=False,
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        tags={**tags, PROCESS_TAG: this_process()},
    )
    if not result.success and any(map(_is_interruption, _failures(dagster, result.run_id))):
        dagster.report_run_canceled(result.dagster_run, f"Stopped; {KEPT}.")
        raise KeyboardInterrupt
    run = dagster.get_run_by_id(result.run_id)
    assert run
    return run


def _failures(dagster: dg.DagsterInstance, run_id: str) -> list[Any]:
    entries = dagster.all_logs(run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    return [entry.get_dagster_event().step_failure_data for entry in entries]


def _is_interruption(failure: Any) -> bool:
    return getattr(failure.error, "cls_name", None) in {"DagsterExecutionInterruptedError", "KeyboardInterrupt"}


def _cause(dagster: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    for failure in _failures(dagster, run.run_id):
        if failure.user_failure_data and failure.user_failure_data.description:
            return str(failure.user_failure_data.description)
        if failure.error:
            return str((failure.error.cause or failure.error).to_string())
    return f"the run {run.run_id} {'was canceled' if run.status == dg.DagsterRunStatus.CANCELED else 'failed'}; see its page"
