"""The job ``refresh``: submit the plan as one asset backfill."""

import os
from typing import Any

import dagster as dg
from pydantic import Field

from assets.metadata import table
from mobileclip2.config.profile import Profile
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.engine.plan import Plan, plan, rows
from mobileclip2.errors import RemoteError, UserError
from pipelines.backfill import submit
from pipelines.graphql import ADDRESS, TOKEN, Server
from pipelines.remote import BACKFILL_ENTRY, REFRESH, REFRESH_OP
from pipelines.show import cells, groups_and_slices, why

COLUMNS = ("asset", "groups", "slices", "why", "samples", "bytes", "time")
REFRESH_TAG = "mobileclip2/refresh"
"""tag on the runs of a backfill: the id of the run that submitted it"""


class RefreshConfig(dg.Config):
    """The assets to refresh."""

    assets: list[str] = Field(
        default=[],
        description="Compute only these assets and their upstream assets, such as student/reinforced. Empty: all assets.",
    )


@dg.op(name=REFRESH_OP, out=dg.Out(dg.Nothing))
def submit_plan(
    context: dg.OpExecutionContext, config: RefreshConfig, pipeline: dg.ResourceParam[Pipeline]
) -> dg.Output[None]:
    """Submit each planned asset and group as one asset backfill. The output's metadata lists them with their reasons."""
    try:
        planned = plan(pipeline, config.assets)
        metadata = plan_metadata(planned)
        if planned.pairs:
            metadata |= submit_backfill(planned, context.run_id, pipeline.profile.key_prefix)
    except UserError as error:
        raise dg.Failure(str(error), allow_retries=False) from None
    return dg.Output(None, metadata=metadata)


@dg.job(
    name=REFRESH,
    description="Submits what is missing or has changed as one backfill: the plan that 'mobileclip2 plan' shows.",
    executor_def=dg.in_process_executor,
)
def refresh_job() -> None:
    """Submit everything that is missing or stale."""
    submit_plan()


def studies_job(profile: Profile) -> dg.JobDefinition:
    """Define :data:`refresh_job` for the studies only."""
    studies = [f"study/{study.name}" for study in profile.studies]
    return refresh_job.graph.to_job(
        name="studies",
        description="Submits what is missing for the studies (ablations, searches for logit scales) as one backfill.",
        config={"ops": {submit_plan.name: {"config": {"assets": studies}}}},
        executor_def=dg.in_process_executor,
    )


def submit_backfill(planned: Plan, run_id: str, prefix: str | None) -> dict[str, Any]:
    """Submit a plan to the webserver of this Dagster, and return the backfill's id and page as metadata.

    Raises:
        UserError: The webserver did not accept the backfill.
    """
    address = os.environ.get(ADDRESS, "http://127.0.0.1:3000")
    try:
        server = Server(address, os.environ.get(TOKEN, ""))
        title = f"{len(planned.pairs)} asset-group pairs"
        backfill = submit(server, planned.pairs, title, {REFRESH_TAG: run_id}, prefix)
    except RemoteError as error:
        raise UserError(
            f"the backfill was not submitted: {error}. Set {ADDRESS} to the address of this Dagster's webserver. If the profile "
            "has other assets or groups than Dagster shows, reload the definitions"
        ) from None
    return {BACKFILL_ENTRY: backfill, "backfill": dg.MetadataValue.url(f"/runs/b/{backfill}")}


def plan_metadata(planned: Plan) -> dict[str, Any]:
    """Return the plan's table and totals as metadata."""
    lines = ((row.asset, *groups_and_slices(row), why(row), *cells(row.cost).values()) for row in rows(planned))
    return {
        "pairs": len(planned.pairs),
        "reused": planned.reused,
        **cells(planned.cost),
        "plan": table([dg.TableColumn(name) for name in COLUMNS], lines),
    }
