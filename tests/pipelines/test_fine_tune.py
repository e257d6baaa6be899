"""The profile to copy for fine-tuning, and the metadata of a student that is interpolated between two others."""

from __future__ import annotations

import shutil

import dagster as dg
import open_clip
import pytest

from mobileclip2.asset_key import AssetKey, Partition
from mobileclip2.config.profile import load
from mobileclip2.engine.external import Folder
from mobileclip2.engine.graph import build_graph
from mobileclip2.report.comparison import published_like
from pipelines.cli import main
from pipelines.definitions import definitions_of
from pipelines.profiles import PROFILES
from pipelines.run import materialize
from tests.pipelines.small import edited


def test_the_names_of_the_profile_resolve():
    profile = load(PROFILES / "fine-tune.yaml")
    graph = build_graph(profile)
    assert graph["student/s0_between"].upstream == ["student/s0_tuned", "student/s0"]
    assert graph["student/s0_tuned"].upstream == ["student/s0", "reinforced_dataset"]
    assert graph["student/s0"].upstream == []
    (part,) = graph["student/s0_between"].slices.values()
    assert part.externals == {
        "curve/mine-dev": Folder("evaluation/mine-dev"),
        "curve/imagenet1k": Folder("evaluation/imagenet1k"),
    }
    assert {"s0", "s0_tuned", "s0_between"} <= {asset.name for asset in graph.values() if asset.stage == "evaluation"}
    model = profile.student("s0").model
    assert model.weights.tag in open_clip.list_pretrained_tags_by_model(model.open_clip)
    assert profile.gate.baseline == "s0"
    assert published_like(profile, "s0_between").name == "MobileCLIP2-S0"
    assert len(profile.dataset_teachers) == 2


def test_check_of_a_copied_profile_names_the_missing_shards(tmp_path, capsys):
    profile = shutil.copy(PROFILES / "fine-tune.yaml", tmp_path)
    assert main(["check", "--profile", str(profile)]) == 1
    assert f"source 'mine': no shard matches '**/*.tar' in {tmp_path / 'shards'}" in capsys.readouterr().err


@pytest.mark.slow
def test_the_interface_shows_the_curve_and_the_gate(finished, instance):
    def change(values):
        train = values["students"][0]["train"]
        pick = {"best": "shapes", "of": ["shapes"]}
        values["students"] += [
            {"name": "tuned", "base": "pupil", "data": "raw", "train": {**train, "seed": 3}},
            {"name": "middle", "between": {"to": "tuned", "weights": [0, 0.5, 1], "pick": pick}},
        ]
        values["gate"] = {"baseline": "pupil"}

    pipeline = edited(finished, change)
    repository = definitions_of(pipeline.profile).get_repository_def()
    for key, group in (("student/tuned", None), ("student/middle", None), ("evaluation/middle", "shapes")):
        materialize(pipeline.profile, repository, instance, Partition(AssetKey(key), group))
    event = instance.get_latest_materialization_event(dg.AssetKey("student.middle"))
    shown = event.asset_materialization.metadata
    (read,) = pipeline.read("student/middle")
    assert shown["picked_weight"].value == read.manifest.facts["weight"]
    assert "data:image/png" in shown["curve"].value
    assert [record.data["weight"] for record in shown["points"].value.records if "weight" in record.data] == [0, 0.5, 1]
    evaluated = instance.get_latest_materialization_event(dg.AssetKey("evaluation.middle")).asset_materialization
    assert evaluated.partition == "shapes" and "main_metric" in evaluated.metadata
