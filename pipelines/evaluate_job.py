"""The job ``evaluate``: what ``mobileclip2 evaluate`` does, for the UI and for callers that only ask by GraphQL."""

import dagster as dg

from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.engine.plan import plan
from mobileclip2.errors import UserError
from pipelines.refresh import REFRESH_TAG, Log
from pipelines.remote import FAILED_ENTRY, JOB, OP, TABLE_ENTRY


class EvaluateConfig(dg.Config):
    """The student to evaluate, and the baseline if it is not the profile's."""

    student: str
    baseline: str | None = None


@dg.op(name=OP)
def evaluate_student(
    context: dg.OpExecutionContext, config: EvaluateConfig, pipeline: dg.ResourceParam[Pipeline]
) -> dg.Output[None]:
    """Each asset and group that is missing in a run of its own, then the gate. A verdict that fails is no failed run."""
    from pipelines.evaluate import judge  # loading the definitions is done more often than judging
    from pipelines.run import refresh

    def materialize(wanted: list[str]) -> None:
        log = Log(context, len(plan(pipeline, wanted).pairs))
        refresh(pipeline, context.instance, wanted, log, {REFRESH_TAG: context.run_id}, context.run)

    try:
        judgement = judge(pipeline, config.student, config.baseline, materialize)
    except UserError as error:
        raise dg.Failure(str(error), allow_retries=False) from None
    table = dg.MetadataValue.md(judgement.table)
    return dg.Output(None, metadata={FAILED_ENTRY: judgement.failed, TABLE_ENTRY: table})


@dg.job(
    name=JOB,
    description="A student or teacher beside a baseline, after computing what its evaluation lacks: 'mobileclip2 evaluate'.",
    executor_def=dg.in_process_executor,
)
def evaluate_job() -> None:
    """Evaluate a student and judge it against its baseline."""
    evaluate_student()
