"""A refresh in a cluster: the run launcher starts a run for each asset and group, and this process waits for it.

Dagster's run monitoring expects a Job for every active run. It would fail a run that a refresh executes in its own process.
"""

from __future__ import annotations

import time
from typing import cast

import dagster as dg
from dagster._core.origin import JobPythonOrigin
from dagster._core.remote_origin import RemoteJobOrigin
from dagster._core.workspace.context import BaseWorkspaceRequestContext

from mobileclip2.engine.graph import Asset
from mobileclip2.errors import UserError

POLL_SECONDS = 2.0


def is_launched(run: dg.DagsterRun) -> bool:
    """Return whether a run launcher started this run, so that it can start others from the same origin."""
    return run.remote_job_origin is not None and run.job_code_origin is not None


def materialize(
    parent: dg.DagsterRun,
    repository: dg.RepositoryDefinition,
    dagster: dg.DagsterInstance,
    asset: Asset,
    group: str | None,
    tags: dict[str, str] | None = None,
) -> None:
    """Launch a run for one asset and group from the image of ``parent``, and wait until it ends.

    Raises:
        UserError: The run failed or was canceled; the message contains the cause.
    """
    run = launch(parent, repository, dagster, asset, group, tags)
    try:
        while not (polled := dagster.get_run_by_id(run.run_id)) or not polled.is_finished:
            time.sleep(POLL_SECONDS)
    except BaseException:
        dagster.run_launcher.terminate(run.run_id)
        raise
    if polled.status != dg.DagsterRunStatus.SUCCESS:
        raise UserError(f"{asset.key}{f' [{group}]' if group else ''}: {_cause(dagster, polled)}")


def launch(
    parent: dg.DagsterRun,
    repository: dg.RepositoryDefinition,
    dagster: dg.DagsterInstance,
    asset: Asset,
    group: str | None,
    tags: dict[str, str] | None,
) -> dg.DagsterRun:
    """Launch a run for an asset and group from the origin of ``parent``."""
    assert parent.remote_job_origin and parent.job_code_origin
    selection = {dg.AssetKey(asset.key.split("/"))}
    job = repository.get_implicit_global_asset_job_def().get_subset(asset_selection=selection)
    run = dagster.create_run_for_job(
        job,
        asset_selection=selection,
        tags={**(tags or {}), "dagster/max_retries": "0", **({"dagster/partition": group} if group else {})},
        remote_job_origin=RemoteJobOrigin(
            repository_origin=parent.remote_job_origin.repository_origin, job_name=job.name
        ),
        job_code_origin=JobPythonOrigin(job.name, parent.job_code_origin.repository_origin),
    )
    # the launcher takes the image from the run and needs no workspace
    return dagster.launch_run(run.run_id, cast(BaseWorkspaceRequestContext, None))


def _cause(dagster: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    for entry in dagster.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE):
        failure = entry.get_dagster_event().step_failure_data
        if failure.user_failure_data and failure.user_failure_data.description:
            return failure.user_failure_data.description
        if failure.error:
            return (failure.error.cause or failure.error).to_string()
    return f"the run {run.run_id} {'was canceled' if run.status == dg.DagsterRunStatus.CANCELED else 'failed'}; see its page"
