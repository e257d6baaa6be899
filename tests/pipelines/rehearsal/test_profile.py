from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from benchmarks._small_models import on_meta
from mobileclip2.config import published
from mobileclip2.config.evaluation_tasks import AVERAGES
from mobileclip2.config.profile import load
from mobileclip2.engine.graph import build_graph
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.errors import UserError
from mobileclip2.evaluation.gate import compare
from mobileclip2.stages.stored_results import stored_results
from pipelines.profiles import profile_path
from pipelines.rehearsal.profile import architecture_of, rehearse, scaled_training, small_config
from tests.test_docs_models import HUB

RECIPES = ("dfndr-12m", "dfndr-2b")


@pytest.mark.parametrize("name", [*RECIPES, "fine-tune", "ablation", "demo", "tiny"])
def test_a_rehearsal_has_the_graph_of_its_profile(tmp_path: Path, name: str) -> None:
    profile = load(profile_path(name))
    rehearsal = load(rehearse(profile, tmp_path / "rehearsal"))
    assert list(build_graph(rehearsal)) == list(build_graph(profile))
    assert rehearsal.groups == max(2, profile.groups // 8) and rehearsal.compute.kubernetes is None
    assert Path(rehearsal.locate(rehearsal.store)) == tmp_path / "rehearsal" / "store"
    for asset in Pipeline(rehearsal).graph.values():  # every external input is there
        for slice_ in asset.slices.values():
            for external in slice_.externals.values():
                Pipeline(rehearsal).inventory.digest(external, rehearsal.group_names[0] if asset.grouped else None)


def test_a_rehearsal_reads_numbers_as_the_profile_does(tmp_path: Path) -> None:
    text = profile_path("tiny").read_text()
    (tmp_path / "p.yaml").write_text(re.sub(r"\bsteps: \d+", "steps: 3e4", text))
    rehearsal = load(rehearse(load(tmp_path / "p.yaml"), tmp_path / "rehearsal"))
    assert {student.train.steps for student in rehearsal.students if student.train} == {30}


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipes_evaluate_the_38_sets_of_the_suite(name: str) -> None:
    profile = load(profile_path(name))
    assert {source.name for source in profile.evaluation} == set(AVERAGES["average"])


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        ({"steps": 30000, "batch": 8192, "warmup": 1000}, {"steps": 30, "batch": 8, "warmup": 1}),
        ({"samples": 12_800_000, "batch": 1024}, {"steps": 12, "batch": 8, "warmup": 0}),
        ({"steps": 200000, "batch": 65536, "warmup": 10000}, {"steps": 200, "batch": 65, "warmup": 10}),
        ({"steps": 300, "batch": 64, "warmup": 30, "accumulate": 8}, {"steps": 4, "batch": 8, "warmup": 0}),
    ],
)
def test_a_rehearsal_trains_with_a_thousandth_of_the_steps_and_batch(
    train: dict[str, int], expected: dict[str, int]
) -> None:
    changed = scaled_training({**train, "learning_rate": 1e-3})
    assert expected.items() <= changed.items() and changed["learning_rate"] == 1e-3
    assert "samples" not in changed and "accumulate" not in changed


@pytest.mark.parametrize("repository", HUB)
def test_a_repository_name_determines_its_architecture(repository: str) -> None:
    expected = HUB[repository].removesuffix("-quickgelu")
    assert architecture_of(f"hf-hub:{repository}") == published.architecture(expected)


@pytest.mark.parametrize("name", sorted(published.open_clip_names()))
def test_every_architecture_has_a_small_version_of_the_same_kind(name: str) -> None:
    import mobileclip2.models.fastvit  # noqa: F401  registers fastvit_nano

    config = published.architecture(name)
    small = small_config(config)
    parameters = sum(parameter.numel() for parameter in on_meta(small).parameters())
    assert parameters < 1e7 and ("multimodal_cfg" in small) == ("multimodal_cfg" in config)


def test_a_folder_with_other_contents_is_refused(tmp_path: Path) -> None:
    profile = load(profile_path("dfndr-12m"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep")
    with pytest.raises(UserError, match="the folder is not empty; give another one for the rehearsal"):
        rehearse(profile, tmp_path / "mine")
    path = rehearse(profile, tmp_path / "rehearsal")
    assert rehearse(profile, tmp_path / "rehearsal") == path
    with pytest.raises(UserError, match="holds a rehearsal of another profile"):
        rehearse(load(profile_path("dfndr-2b")), tmp_path / "rehearsal")
    (tmp_path / "rehearsal" / "rehearsal.json").write_bytes(b"{")
    with pytest.raises(UserError, match="holds a rehearsal of another profile"):
        rehearse(profile, tmp_path / "rehearsal")


@pytest.mark.slow
def test_a_complete_rehearsal_reports_the_average_of_38_sets(tmp_path: Path) -> None:
    path = rehearse(load(profile_path("dfndr-12m")), tmp_path / "rehearsal")
    values = yaml.safe_load(path.read_text())
    values["views"]["count"] = 2
    path.write_text(yaml.safe_dump(values))
    pipeline = Pipeline(load(path))
    for key, asset in pipeline.graph.items():
        if not key.startswith("evaluation/") or key == "evaluation/b":
            for group in pipeline.groups(asset):
                pipeline.materialize(key, group)
    comparison = compare(stored_results(pipeline, "b"), None, pipeline.profile.gate)
    means = {row.set: row.value for row in comparison.rows if row.set in AVERAGES}
    assert set(means) == set(AVERAGES)
    mains = [result.main or 0.0 for result in stored_results(pipeline, "b")]
    assert means["average"] == pytest.approx(sum(mains) / 38)
    (student,) = pipeline.read("student/b")
    assert json.loads(student.fetch("open_clip_config.json").read_text())["model_cfg"]["embed_dim"] == 64
