"""Launch a run for an asset and group from a refresh in a cluster, and wait for it.

Dagster's run monitoring expects a Job for every active run. It would fail a run that a refresh executes in its own process.
"""

from __future__ import annotations

import time
from typing import cast

import dagster as dg
from dagster._core.origin import JobPythonOrigin
from dagster._core.remote_origin import RemoteJobOrigin
from dagster._core.workspace.context import BaseWorkspaceRequestContext

POLL_SECONDS = 2.0


def is_launched(run: dg.DagsterRun) -> bool:
    """Return whether a run launcher started this run, so that it can start others from the same origin."""
    return run.remote_job_origin is not None and run.job_code_origin is not None


def execute_launched(
    parent: dg.DagsterRun,
    job: dg.JobDefinition,
    dagster: dg.DagsterInstance,
    key: dg.AssetKey,
    group: str | None,
    tags: dict[str, str],
) -> dg.DagsterRun:
    """Launch a run for an asset and group from the origin of ``parent``, and return it when it has ended."""
    assert parent.remote_job_origin and parent.job_code_origin
    run = dagster.create_run_for_job(
        job.get_subset(asset_selection={key}),
        asset_selection={key},
        tags={**tags, **({"dagster/partition": group} if group else {})},
        remote_job_origin=RemoteJobOrigin(
            repository_origin=parent.remote_job_origin.repository_origin, job_name=job.name
        ),
        job_code_origin=JobPythonOrigin(job.name, parent.job_code_origin.repository_origin),
    )
    # the launcher takes the image from the run and needs no workspace
    dagster.launch_run(run.run_id, cast(BaseWorkspaceRequestContext, None))
    try:
        while not (polled := dagster.get_run_by_id(run.run_id)) or not polled.is_finished:
            time.sleep(POLL_SECONDS)
    except BaseException:
        dagster.run_launcher.terminate(run.run_id)
        raise
    return polled
