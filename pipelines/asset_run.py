"""Execute one Dagster run for an asset and group in this process."""

from __future__ import annotations

from typing import Any

import dagster as dg

from assets.keys import dagster_key
from mobileclip2.asset_key import Partition
from mobileclip2.config.profile import Profile
from mobileclip2.errors import UserError
from pipelines.processes import COMMAND_TAG, PROCESS_TAG, this_process
from pipelines.supervise import KEPT


def materialize(
    profile: Profile,
    repository: dg.RepositoryDefinition,
    dagster: dg.DagsterInstance,
    partition: Partition,
    command: str | None = None,
) -> None:
    """Execute one Dagster run for an asset and group.

    Args:
        profile: The profile that ``repository`` defines.
        command: Process of the command that this run is part of. Default: this process.

    Raises:
        UserError: The run failed or was canceled. The message contains the cause.
        KeyboardInterrupt: The run was interrupted in this process. Dagster records it as canceled.
    """
    job = repository.get_implicit_global_asset_job_def()
    process = this_process()
    result = job.execute_in_process(
        instance=dagster,
        asset_selection=[dagster_key(partition.asset, profile)],
        partition_key=partition.group,
        raise_on_error=False,
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        # the command shows the failure, and would not wait for a retry
        tags={"dagster/max_retries": "0", PROCESS_TAG: process, COMMAND_TAG: command or process},
    )
    if result.success:
        return
    entries = dagster.all_logs(result.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    failures = [entry.get_dagster_event().step_failure_data for entry in entries]
    interruptions = {"DagsterExecutionInterruptedError", "KeyboardInterrupt"}
    if any(getattr(failure.error, "cls_name", None) in interruptions for failure in failures):
        dagster.report_run_canceled(result.dagster_run, f"Stopped; {KEPT}.")
        raise KeyboardInterrupt
    raise UserError(f"{partition}: {_cause(failures) or f'the run {result.run_id} failed; see its page'}")


def _cause(failures: list[Any]) -> str | None:
    for failure in failures:
        if failure.user_failure_data and failure.user_failure_data.description:
            return str(failure.user_failure_data.description)
        if failure.error:
            return str((failure.error.cause or failure.error).to_string())
    return None
