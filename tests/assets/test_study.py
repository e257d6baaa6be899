"""Ablations and searches for logit scales, on the small finished profile: one teacher, no captioner."""

from __future__ import annotations

import dagster as dg

from assets.keys import dagster_key
from mobileclip2.asset_key import AssetKey, Partition
from mobileclip2.config.profile import load
from mobileclip2.engine.graph import build_graph
from mobileclip2.engine.plan import plan
from mobileclip2.report.gather import gather
from mobileclip2.report.pipeline import render_pipeline
from mobileclip2.report.study import study_result
from pipelines.asset_run import materialize
from pipelines.definitions import definitions_of
from pipelines.profiles import profile_path
from pipelines.refresh import submit_plan
from tests.pipelines.small import edited

INGREDIENTS = {
    "name": "ingredients",
    "student": "pupil",
    "seeds": [0, 3],
    "evaluate_on": ["shapes"],
    "rows": [
        {"name": "base", "data": "raw"},
        {"name": "distillation", "loss": {"captions": "real"}},
        {"name": "half", "loss": {"captions": "real", "distill": 0.5}},
    ],
}


def with_studies(*studies):
    return lambda values: values.update(studies=list(studies))


def missing(pipeline):
    pipeline.forget()
    return [(asset.key, group) for asset, group in pipeline.stale()]


def test_each_row_and_seed_is_a_separate_partition(finished, instance):
    pipeline = edited(finished, with_studies(INGREDIENTS))
    trials = ["base-seed0", "base-seed3", "distillation-seed0", "distillation-seed3", "half-seed0", "half-seed3"]
    assert missing(pipeline) == [("study/ingredients", trial) for trial in trials]
    defs = definitions_of(pipeline.profile)
    study = AssetKey("study/ingredients")
    asset = defs.resolve_assets_def(dagster_key(study))
    assert asset.partitions_def.get_partition_keys() == trials

    for trial in ("distillation-seed0", "distillation-seed3"):
        materialize(pipeline.profile, defs.get_repository_def(), instance, Partition(study, trial))
    assert missing(pipeline) == [("study/ingredients", trial) for trial in trials if "distillation" not in trial]
    event = instance.get_latest_materialization_event(dg.AssetKey("study.ingredients")).asset_materialization
    assert event.partition == "distillation-seed3"
    assert (
        "| distillation | 2 of 2 |" in event.metadata["study"].value
        and "| base | 0 of 2 |" in event.metadata["study"].value
    )
    assert "data:image/png;base64," in event.metadata["plot"].value


def test_a_trial_scores_like_a_student_with_the_same_settings(finished):
    study = {**INGREDIENTS, "seeds": [0], "rows": INGREDIENTS["rows"][1:2]}
    pipeline = edited(finished, with_studies(study))
    assert pipeline.profile.student("pupil").loss == pipeline.profile.study("ingredients").rows[0].loss
    pipeline.materialize("study/ingredients", "distillation-seed0")
    (trial,) = pipeline.read("study/ingredients", "distillation-seed0")
    (student,) = pipeline.read("student/pupil")
    assert trial.fetch("metrics.jsonl").read_bytes() == student.fetch("metrics.jsonl").read_bytes()
    assert not any("safetensors" in file.name for file in trial.manifest.files)
    (scores,) = study_result(pipeline, "ingredients").rows.values()
    (evaluation,) = pipeline.read("evaluation/pupil")
    assert f'"acc1": {scores["shapes/acc1"][0]}' in evaluation.fetch("results.jsonl").read_text()


def test_a_search_uses_one_teacher_and_adds_only_new_scales(tiny):
    search = {
        "name": "scales",
        "student": "pupil",
        "evaluate_on": ["shapes"],
        "scales": {"wide": [20, 0.5], "narrow": [30]},
    }
    edited(tiny, lambda values: values["students"][0].update(loss={"distill": 0.25}))
    before = edited(tiny, with_studies(search))
    parts = before.graph["study/scales"].slices
    assert {part.declared["loss"]["distill"] for part in parts.values()} == {0.25}, "all else is the student's"
    assert {name: part.declared["logit_scales"] for name, part in parts.items()} == {
        "wide_20-seed0": [20, None],
        "wide_0_5-seed0": [0.5, None],
        "narrow_30-seed0": [None, 30],
    }
    after = edited(tiny, with_studies({**search, "scales": {"wide": [20, 0.5, 90], "narrow": [30]}}))
    added = after.graph["study/scales"].slices
    assert {name for name, part in added.items() if part != parts.get(name)} == {"wide_90-seed0"}


def test_the_plan_lists_trials_and_is_empty_after_the_run(finished):
    pipeline = edited(finished, with_studies(INGREDIENTS))
    assert [(item.asset, item.slice, item.reasons) for item in plan(pipeline).items][:2] == [
        ("study/ingredients", "base-seed0", ("new",)),
        ("study/ingredients", "base-seed3", ("new",)),
    ]
    for asset, group in pipeline.stale():
        pipeline.materialize(asset.key, group)
    assert not plan(pipeline).items
    page = render_pipeline(gather(pipeline))
    assert "<h2>Studies</h2>" in page and "2 of 2" in page and "study-0-0" in page
    retrained = edited(finished, lambda values: values["students"][0]["train"].update(learning_rate=0.5))
    assert {item.reasons for item in plan(retrained, ["study/ingredients"]).items} == {
        ("train.learning_rate 0.001 -> 0.5",)
    }


def test_the_studies_job_requests_only_studies(finished):
    pipeline = edited(finished, with_studies(INGREDIENTS))
    job = definitions_of(pipeline.profile).resolve_job_def("studies")
    assert job.run_config["ops"][submit_plan.name]["config"] == {"assets": ["study/ingredients"]}
    assert not definitions_of(edited(finished, with_studies()).profile).get_repository_def().has_job("studies")


def test_the_ablation_shares_assets_with_the_demo():
    demo, ablation = (build_graph(load(profile_path(name))) for name in ("demo", "ablation"))
    shared = {key for key in demo if key in ablation and demo[key].slices == ablation[key].slices}
    assert set(demo) - shared == {"reinforced_dataset", "student/plain", "evaluation/plain", "student/reinforced"}
