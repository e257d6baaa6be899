"""Inputs from outside the store, and the partitions of these inputs that an asset reads."""

from __future__ import annotations

import shutil
from pathlib import Path

import dagster as dg
import yaml

from assets.inputs import MISSING, SETS, external_inputs, input_versions, observed
from mobileclip2.config.profile import load
from mobileclip2.engine.graph import build_graph
from mobileclip2.engine.pipeline import Pipeline
from pipelines.profiles import PROFILES
from tests.mobileclip2.stages.published_shards import published_profile
from tests.pipelines.small import edited


def test_every_profile_has_a_version_for_every_partition_of_every_input() -> None:
    for name in ("demo", "ablation"):
        pipeline = Pipeline(load(PROFILES / f"{name}.yaml"))
        versions = input_versions(pipeline)
        expected = {
            (each.key, partition)
            for asset in pipeline.graph.values()
            for each in external_inputs(pipeline.profile, asset)
            for partition in each.read or (each.partitions.get_partition_keys() if each.partitions else [None])
        }
        assert set(versions) == expected and MISSING not in versions.values()


def test_a_student_reads_only_the_sets_of_its_curve(tiny: Path) -> None:
    def change(values: dict) -> None:
        values["evaluation"].append({**values["evaluation"][0], "name": "more"})
        values["students"][0]["evaluate_on"] = ["more"]

    pipeline = edited(tiny, change)
    (read,) = [
        each for each in external_inputs(pipeline.profile, pipeline.graph["student/pupil"]) if each.key.path[-1] == SETS
    ]
    assert read.read == ("more",)
    (of_evaluation,) = external_inputs(pipeline.profile, pipeline.graph["evaluation/pupil"])
    assert of_evaluation.read == () and of_evaluation.partitions is not None
    assert of_evaluation.partitions.get_partition_keys() == ["shapes", "more"]


def test_each_study_variant_has_its_own_version() -> None:
    pipeline = Pipeline(load(PROFILES / "ablation.yaml"))
    key = dg.AssetKey(["inputs", "logit_scales_study_variants"])
    versions = {place[1]: version for place, version in input_versions(pipeline).items() if place[0] == key}
    assert set(versions) == set(pipeline.graph["study/logit_scales"].slices)
    assert len(set(versions.values())) == len(versions) > 1


def test_a_shard_changes_the_version_of_its_group(tiny: Path) -> None:
    before = input_versions(Pipeline(load(tiny)))
    shutil.copy(tiny.parent / "shards" / "00003.tar", tiny.parent / "shards" / "00001.tar")
    after = input_versions(Pipeline(load(tiny)))
    changed = {place for place in before if before[place] != after[place]}
    assert changed == {(dg.AssetKey(["inputs", "source_shards"]), "g01")}


def test_names_of_inputs_are_distinct() -> None:
    for name in ("demo", "ablation", "fine-tune", "dfndr-2b"):
        profile = load(PROFILES / f"{name}.yaml")
        keys = [asset.key for asset in observed(profile, build_graph(profile))]
        assert len({key.path[-1] for key in keys}) == len(keys) and keys


def test_images_joined_to_published_shards_are_a_separate_input(tiny: Path) -> None:
    tiny.write_text(yaml.safe_dump(published_profile(tiny, images={"url": "shards"})))
    keys = {key for key, _ in input_versions(Pipeline(load(tiny)))}
    assert {key.path[-1] for key in keys} == {
        "datacompdr_shards",
        "datacompdr_reinforced_shards_files",
        "evaluation_sets",
    }
