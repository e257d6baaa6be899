"""The code location: the graph of the profile in ``MOBILECLIP2_PROFILE``, by default the demo."""

from __future__ import annotations

import os

import dagster as dg

from assets.augmentations import augmentations
from assets.captioner import captioners
from assets.evaluation import evaluations
from assets.raw_shards import raw_shards
from assets.reinforced_dataset import reinforced_dataset
from assets.student import students
from assets.study import studies
from assets.synthetic_captions import synthetic_captions
from assets.teacher import teachers
from assets.teacher_embeddings import teacher_embeddings
from mobileclip2.config.profile import Profile, load
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.extras import needs
from pipelines.current import current
from pipelines.evaluate_job import evaluate_job
from pipelines.processes import mark
from pipelines.profiles import profile_path
from pipelines.refresh import refresh_job, studies_job
from pipelines.sensors import refresh_when_changed, show_what_is_current

STAGES = (
    raw_shards,
    augmentations,
    captioners,
    synthetic_captions,
    teachers,
    teacher_embeddings,
    reinforced_dataset,
    students,
    evaluations,
    studies,
)


def definitions(pipeline: Pipeline) -> dg.Definitions:
    """Define the assets, checks, jobs and sensors of a pipeline."""
    check = current(pipeline)
    return dg.Definitions.merge(
        stages(pipeline),
        dg.Definitions(
            asset_checks=[check],
            jobs=[
                refresh_job,
                *([studies_job(pipeline.profile)] if pipeline.profile.studies else []),
                evaluate_job,
                dg.define_asset_job(
                    "check_current",
                    dg.AssetSelection.checks(check),
                    description="Checks whether every asset is current, and lists what is missing and why. Computes nothing.",
                ),
            ],
            sensors=[refresh_when_changed(pipeline), show_what_is_current(pipeline)],
        ),
    )


def stages(pipeline: Pipeline) -> dg.Definitions:
    """Define all assets of a pipeline. The pipeline is their resource."""
    return dg.Definitions(
        assets=[asset for stage in STAGES for asset in stage(pipeline.profile, pipeline.graph)],
        resources={"pipeline": dg.ResourceDefinition(lambda context: _pipeline_for_run(pipeline, context))},
        executor=executor(pipeline.profile),
    )


def executor(profile: Profile) -> dg.ExecutorDefinition:
    """Return the executor: steps run in the run's process, or in a pod each in a cluster."""
    if profile.compute.kubernetes is None:
        return dg.in_process_executor
    with needs("k8s"):
        from dagster_k8s import k8s_job_executor  # its import takes seconds

    return k8s_job_executor


def _pipeline_for_run(pipeline: Pipeline, context: dg.InitResourceContext) -> Pipeline:
    """Return the pipeline with empty caches, so that the run reads the store and external inputs as they are at its start."""
    from mobileclip2.executors import executor_of  # only runs need it, and loading the definitions must stay fast

    # in a cluster, the run launcher monitors the pods of a run
    if context.instance and context.run and pipeline.profile.compute.kubernetes is None:
        mark(context.instance, context.run.run_id)
    pipeline.forget()
    pipeline.compute = executor_of(pipeline.profile)
    return pipeline


defs = definitions(Pipeline(load(profile_path(os.environ.get("MOBILECLIP2_PROFILE", "demo")))))
