"""The assets of a pipeline with their resources and executor."""

from __future__ import annotations

from collections.abc import Callable

import dagster as dg

from assets.augmentations import augmentations
from assets.captioner import caption_corpus, captioner
from assets.code_version import code_versions
from assets.evaluation import evaluation
from assets.filtering import filter_scores, selected_shards, selection
from assets.inputs import external_inputs, observed
from assets.keys import dagster_key, named
from assets.raw_shards import raw_shards
from assets.reinforced_dataset import reinforced_dataset
from assets.reinforced_shards import reinforced_shards
from assets.student import student
from assets.study import study
from assets.synthetic_captions import synthetic_captions
from assets.teacher import teacher
from assets.teacher_embeddings import teacher_embeddings
from mobileclip2.config.profile import Profile
from mobileclip2.engine.graph import Asset, build_graph
from mobileclip2.extras import needs
from mobileclip2.progress import Progress, silent
from pipelines.automation import compute_when_ready
from pipelines.pipeline_resource import PipelineResource

STAGES: dict[str, Callable[[Profile, Asset], dg.AssetsDefinition]] = {
    "raw_shards": raw_shards,
    "filter_scores": filter_scores,
    "selection": selection,
    "selected_shards": selected_shards,
    "augmentations": augmentations,
    "caption_corpus": caption_corpus,
    "captioner": captioner,
    "synthetic_captions": synthetic_captions,
    "teacher": teacher,
    "teacher_embeddings": teacher_embeddings,
    "reinforced_dataset": reinforced_dataset,
    "reinforced_shards": reinforced_shards,
    "student": student,
    "evaluation": evaluation,
    "study": study,
}
"""for each stage, the function that defines an asset of it"""


def stages(profile: Profile, on_step: Progress = silent) -> dg.Definitions:
    """Define all assets of a profile. Their resources are the pipeline and ``on_step``, which receives their progress."""
    graph = build_graph(profile)
    versions = {dagster_key(key, profile): version for key, version in code_versions(graph).items()}
    inputs = {dagster_key(asset.key, profile): external_inputs(profile, asset) for asset in graph.values()}
    condition = compute_when_ready(profile)
    loaded = dg.ResourceDefinition.hardcoded_resource(profile)

    def compared(spec: dg.AssetSpec) -> dg.AssetSpec:
        """Add what Dagster compares: the version of all that is declared, and the inputs from outside."""
        deps = [*spec.deps, *(each.dep for each in inputs[spec.key])]
        return spec.replace_attributes(code_version=versions[spec.key], deps=deps, automation_condition=condition)

    return dg.Definitions(
        assets=[
            *observed(profile, graph),
            *(STAGES[asset.stage](profile, asset).map_asset_specs(compared) for asset in graph.values()),
        ],
        resources={
            named("pipeline", profile): PipelineResource(profile=profile.file, loaded=loaded),
            named("on_step", profile): dg.ResourceDefinition(lambda _: on_step),
        },
        executor=executor(profile),
    )


def executor(profile: Profile) -> dg.ExecutorDefinition:
    """Return the executor: steps run in the run's process, or in a pod each in a cluster."""
    if profile.compute.kubernetes is None:
        return dg.in_process_executor
    with needs("k8s"):
        from dagster_k8s import k8s_job_executor  # its import takes seconds

    return k8s_job_executor
