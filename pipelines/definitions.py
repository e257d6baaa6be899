"""The code location: the graph of the profile that ``MOBILECLIP2_PROFILE`` names, by default the demo."""

from __future__ import annotations

import os

import dagster as dg

from assets.augmentations import augmentations
from assets.captioner import captioners
from assets.evaluation import evaluations
from assets.raw_shards import raw_shards
from assets.reinforced_dataset import reinforced_dataset
from assets.student import students
from assets.synthetic_captions import synthetic_captions
from assets.teacher import teachers
from assets.teacher_embeddings import teacher_embeddings
from mobileclip2.pipeline import Pipeline
from mobileclip2.profile import Profile, load
from pipelines.profiles import profile_path

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
)


def definitions(pipeline: Pipeline) -> dg.Definitions:
    """All assets of one pipeline, with the pipeline as their resource."""
    assets = [asset for stage in STAGES for asset in stage(pipeline.profile, pipeline.graph)]
    return dg.Definitions(
        assets=assets,
        resources={"pipeline": dg.ResourceDefinition(lambda _: _fresh(pipeline))},
        executor=executor(pipeline.profile),
    )


def executor(profile: Profile) -> dg.ExecutorDefinition:
    """Steps one after the other in the run's process; in a cluster, each in a pod of its own that a run can lose."""
    if profile.compute.kubernetes is None:
        return dg.in_process_executor
    from dagster_k8s import k8s_job_executor  # takes seconds to load

    return k8s_job_executor


def _fresh(pipeline: Pipeline) -> Pipeline:
    """A run looks at the store and the outside inputs as they are when it starts."""
    from pipelines.compute import compute_of  # brings what only runs need; loading the definitions is done more often

    pipeline.forget()
    pipeline.compute = compute_of(pipeline.profile)
    return pipeline


defs = definitions(Pipeline(load(profile_path(os.environ.get("MOBILECLIP2_PROFILE", "demo")))))
