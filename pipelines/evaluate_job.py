"""The job ``evaluate``: ``mobileclip2 evaluate`` for the UI and for GraphQL clients."""

import dagster as dg

from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.engine.plan import plan
from mobileclip2.errors import UserError
from pipelines.refresh import REFRESH_TAG, Log
from pipelines.remote import FAILED_ENTRY, JOB, OP, TABLE_ENTRY


class EvaluateConfig(dg.Config):
    """The student to evaluate, and a baseline that replaces the profile's."""

    student: str
    baseline: str | None = None


@dg.op(name=OP)
def evaluate_student(
    context: dg.OpExecutionContext, config: EvaluateConfig, pipeline: dg.ResourceParam[Pipeline]
) -> dg.Output[None]:
    """Compute each missing asset and group in its own run, then apply the gate. The run succeeds if the gate fails."""
    from pipelines.evaluate import apply_gate  # keep its imports out of loading the definitions
    from pipelines.run import refresh

    def materialize(keys: list[str]) -> None:
        log = Log(context, len(plan(pipeline, keys).pairs))
        refresh(pipeline, context.instance, keys, log, {REFRESH_TAG: context.run_id}, context.run)

    try:
        result = apply_gate(pipeline, config.student, config.baseline, materialize)
    except UserError as error:
        raise dg.Failure(str(error), allow_retries=False) from None
    table = dg.MetadataValue.md(result.table)
    return dg.Output(None, metadata={FAILED_ENTRY: result.failed, TABLE_ENTRY: table})


@dg.job(
    name=JOB,
    description="Compares a student or teacher with a baseline, and first computes what is missing: 'mobileclip2 evaluate'.",
    executor_def=dg.in_process_executor,
)
def evaluate_job() -> None:
    """Evaluate a student and compare it with its baseline."""
    evaluate_student()
