"""The job ``evaluate``: ``mobileclip2 evaluate`` for the UI and for GraphQL clients."""

from typing import Any

import dagster as dg

from mobileclip2.config.profile import Profile
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.engine.plan import plan
from mobileclip2.errors import UserError
from pipelines.refresh import plan_metadata, submit_backfill
from pipelines.remote import EVALUATE, EVALUATE_OP, FAILED_ENTRY, TABLE_ENTRY


def evaluate_job(profile: Profile) -> dg.JobDefinition:
    """Define the job, whose launch page lists the evaluated models."""

    @dg.op(name=EVALUATE_OP, config_schema=config_schema(profile))
    def evaluate_model(context: dg.OpExecutionContext, pipeline: dg.ResourceParam[Pipeline]) -> dg.Output[None]:
        """Apply the gate, or submit a backfill of the missing evaluation. The run succeeds if the gate fails."""
        # keep its imports out of loading the definitions
        from pipelines.evaluate import apply_gate, data_section, evaluations

        config: dict[str, Any] = context.op_config
        student, baseline = config["student"], config.get("baseline")
        try:
            planned = plan(pipeline, evaluations(pipeline, student, baseline))
            if planned.pairs:
                context.log.warning("the evaluation is not computed yet; launch this job again after the backfill")
                submitted = submit_backfill(planned, context.run_id, pipeline.profile.key_prefix)
                return dg.Output(None, metadata=plan_metadata(planned) | submitted)
            table, has_failed = apply_gate(pipeline, student, baseline)
        except UserError as error:
            raise dg.Failure(str(error), allow_retries=False) from None
        text = "\n".join(filter(None, [table, data_section(pipeline, baseline)]))
        return dg.Output(None, metadata={FAILED_ENTRY: has_failed, TABLE_ENTRY: dg.MetadataValue.md(text)})

    @dg.job(
        name=EVALUATE,
        description="Compares a student or teacher with a baseline. Submits a backfill if their evaluation is not computed yet.",
        executor_def=dg.in_process_executor,
    )
    def job() -> None:
        evaluate_model()

    return job


def config_schema(profile: Profile) -> dict[str, dg.Field]:
    """Return the configuration: the model, by default the first student that is not the baseline, and another baseline."""
    kinds = {student.name: "student" for student in profile.students}
    kinds |= {teacher.name: "teacher" for teacher in profile.teachers}
    models = dg.Enum("EvaluatedModel", [dg.EnumValue(name, description=kind) for name, kind in kinds.items()])
    default = next((name for name in kinds if name != profile.gate.baseline), next(iter(kinds)))
    return {
        "student": dg.Field(models, default_value=default, description="The student or teacher to evaluate."),
        "baseline": dg.Field(
            str,
            is_required=False,
            description="A model, a file or folder of results, or a git revision, in place of the profile's baseline.",
        ),
    }
