"""The job ``refresh``: ``mobileclip2 run`` for the UI."""

import time
from collections.abc import Iterator
from typing import Any

import dagster as dg
from pydantic import Field

from assets.materialize import LOG_EVERY_SECONDS
from mobileclip2.config.profile import Profile
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.engine.plan import Plan, plan, rows
from mobileclip2.errors import UserError
from mobileclip2.progress import Step
from pipelines.show import cells, groups_and_slices, why

COLUMNS = ("asset", "groups", "slices", "why", "samples", "bytes", "time")
REFRESH_TAG = "mobileclip2/refresh"
"""tag on the run of an asset and group: the id of the refresh that started it"""


class RefreshConfig(dg.Config):
    """The assets to refresh."""

    assets: list[str] = Field(
        default=[],
        description="Compute only these assets and their upstream assets, such as student/reinforced. Empty: all assets.",
    )


@dg.op(out={"plan": dg.Out(dg.Nothing), "done": dg.Out(dg.Nothing)})
def materialize_missing(
    context: dg.OpExecutionContext, config: RefreshConfig, pipeline: dg.ResourceParam[Pipeline]
) -> Iterator[dg.Output[None]]:
    """Compute each missing asset and group in its own run. The output ``plan`` comes first and lists them with their reasons."""
    from pipelines.run import refresh

    try:
        planned = plan(pipeline, config.assets)
        yield dg.Output(None, "plan", metadata=plan_metadata(planned))
        log = Log(context, len(planned.pairs))
        runs = refresh(pipeline, context.instance, config.assets, log, {REFRESH_TAG: context.run_id}, context.run)
    except UserError as error:
        raise dg.Failure(str(error), allow_retries=False) from None
    yield dg.Output(None, "done", metadata={"runs": runs})


@dg.job(
    name="refresh",
    description="Computes what is missing or has changed, in order: the plan that 'mobileclip2 plan' shows.",
    executor_def=dg.in_process_executor,
)
def refresh_job() -> None:
    """Compute everything that is missing or stale."""
    materialize_missing()


def studies_job(profile: Profile) -> dg.JobDefinition:
    """Define :data:`refresh_job` for the studies only."""
    studies = [f"study/{study.name}" for study in profile.studies]
    return refresh_job.graph.to_job(
        name="studies",
        description="Computes what is missing for the studies (ablations, searches for logit scales).",
        config={"ops": {materialize_missing.name: {"config": {"assets": studies}}}},
        executor_def=dg.in_process_executor,
    )


def plan_metadata(planned: Plan) -> dict[str, Any]:
    """Return the plan's table and totals as metadata."""
    samples, size, seconds = cells(planned.cost)
    schema = dg.TableSchema(columns=[dg.TableColumn(name) for name in COLUMNS])
    records = [
        dg.TableRecord(
            dict(zip(COLUMNS, (row.asset, *groups_and_slices(row), why(row), *cells(row.cost)), strict=True))
        )
        for row in rows(planned)
    ]
    return {
        "pairs": len(planned.pairs),
        "reused": planned.reused,
        "samples": samples,
        "bytes": size,
        "time": seconds,
        "plan": dg.MetadataValue.table(records, schema),
    }


class Log:
    """Logs the progress of a refresh in its op: each start, its steps, and its time."""

    def __init__(self, context: dg.OpExecutionContext, total: int) -> None:
        self._log, self._total = context.log, total
        self._count = 0
        self._label = ""
        self._started = self._last = 0.0

    def begin(self, label: str) -> None:
        """Log that an asset and group begins."""
        self._count += 1
        self._label = f"[{self._count}/{self._total}] {label}"
        self._started = self._last = time.monotonic()
        self._log.info(self._label)

    def step(self, step: Step) -> None:
        """Log a step, at most one every :data:`LOG_EVERY_SECONDS`."""
        now = time.monotonic()
        if now - self._last >= LOG_EVERY_SECONDS:
            self._last = now
            self._log.info(f"{self._label}: {step.done}/{step.total} {step.unit}")

    def end(self, label: str) -> None:
        """Log the time of the asset and group."""
        if self._label:
            self._log.info(f"{self._label}: {time.monotonic() - self._started:.1f} s")
        self._label = ""
