"""The job ``evaluate``: ``mobileclip2 evaluate`` for the UI and for GraphQL clients."""

import dagster as dg

from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.engine.plan import plan
from mobileclip2.errors import UserError
from pipelines.refresh import plan_metadata, submit_backfill
from pipelines.remote import EVALUATE, EVALUATE_OP, FAILED_ENTRY, TABLE_ENTRY


class EvaluateConfig(dg.Config):
    """The student to evaluate, and a baseline that replaces the profile's."""

    student: str
    baseline: str | None = None


@dg.op(name=EVALUATE_OP)
def evaluate_student(
    context: dg.OpExecutionContext, config: EvaluateConfig, pipeline: dg.ResourceParam[Pipeline]
) -> dg.Output[None]:
    """Apply the gate, or submit a backfill of the missing evaluation. The run succeeds if the gate fails."""
    from pipelines.evaluate import apply_gate, evaluations  # keep their imports out of loading the definitions

    try:
        planned = plan(pipeline, evaluations(pipeline, config.student, config.baseline))
        if planned.pairs:
            context.log.warning("the evaluation is not computed yet; launch this job again after the backfill")
            return dg.Output(
                None,
                metadata=plan_metadata(planned) | submit_backfill(planned, context.run_id, pipeline.profile.key_prefix),
            )
        result = apply_gate(pipeline, config.student, config.baseline)
    except UserError as error:
        raise dg.Failure(str(error), allow_retries=False) from None
    table = dg.MetadataValue.md(result.table)
    return dg.Output(None, metadata={FAILED_ENTRY: result.failed, TABLE_ENTRY: table})


@dg.job(
    name=EVALUATE,
    description="Compares a student or teacher with a baseline. Submits a backfill if their evaluation is not computed yet.",
    executor_def=dg.in_process_executor,
)
def evaluate_job() -> None:
    """Evaluate a student and compare it with its baseline."""
    evaluate_student()
