from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
import torch
import yaml
from safetensors.torch import load_file

from mobileclip2.asset_key import AssetKey
from mobileclip2.config.profile import load
from mobileclip2.engine.graph import build_graph
from mobileclip2.engine.lineage import LINEAGE, read_lineage
from mobileclip2.engine.pipeline import Pipeline, TaskBatch
from mobileclip2.models.build import CONFIG, WEIGHTS, build
from mobileclip2.models.build import load as load_model
from mobileclip2.progress import silent
from mobileclip2.stages.load_model import VIEWS, load_image_text
from mobileclip2.stages.student import objective_and_source
from mobileclip2.training.data import SampleSource


@pytest.mark.parametrize("name", ["pupil", "plain"])
def test_a_trained_student_is_stored_with_all_files(materialized: Callable[..., Pipeline], name: str) -> None:
    (stored,) = materialized(f"student/{name}").read(f"student/{name}")
    assert {file.name for file in stored.manifest.files} == {CONFIG, WEIGHTS, "metrics.jsonl"}
    assert read_lineage(stored.fetch(LINEAGE)).asset == f"student/{name}"
    model = load_model(stored.fetch(CONFIG), stored.fetch(WEIGHTS))
    parameters = sum(parameter.numel() for parameter in model.model.parameters())
    assert stored.manifest.facts == {"embed_dim": 16, "parameters": parameters, "samples": 4 * 8}


def test_evaluations_during_training_are_recorded(materialized: Callable[..., Pipeline]) -> None:
    (stored,) = materialized("student/pupil").read("student/pupil")
    records = [json.loads(line) for line in stored.fetch("metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2, 3, 4]
    assert [record["step"] for record in records if "shapes/acc1" in record] == [4]


def test_a_pretrained_student_keeps_its_weights(tiny: Path) -> None:
    text = tiny.read_text()
    start, end = text.index("  - name: wide\n"), text.index("  - name: narrow\n")
    given = text[start:end].replace("wide", "given", 1).replace("    logit_scale: 50\n", "").replace("&text ", "")
    tiny.write_text(text.replace("evaluation:\n", f"{given}evaluation:\n"))
    pipeline = Pipeline(load(tiny))
    pipeline.materialize("student/given")
    (stored,) = pipeline.read("student/given")
    weights = load_file(tiny.parent / "weights" / "wide.safetensors")
    found = load_file(stored.fetch(WEIGHTS))
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    assert "samples" not in stored.manifest.facts and stored.manifest.facts["embed_dim"] == 24


def test_a_student_that_does_not_distill_trains_on_weakly_augmented_images(
    materialized: Callable[..., Pipeline],
) -> None:
    """The student reads synthetic captions from the reinforced dataset, without embeddings of views."""
    profile = Path(materialized("student/pupil").profile.file)
    values = yaml.safe_load(profile.read_text())
    (pupil,) = (student for student in values["students"] if student["name"] == "pupil")
    pupil["loss"] = {"distill": 0}
    profile = profile.with_name("undistilled.yaml")  # this adds a student to the store of the shared profile
    profile.write_text(yaml.safe_dump(values))
    assert set(opened(profile, "pupil").sample(0, 0)) == {"image", "text", "synthetic_text"}
    pipeline = Pipeline(load(profile))
    pipeline.materialize("student/pupil")
    (stored,) = pipeline.read("student/pupil")
    records = [json.loads(line) for line in stored.fetch("metrics.jsonl").read_text().splitlines()]
    assert {"clip/real", "clip/synthetic"} <= set(records[0]) and "distill/real" not in records[0]


def opened(profile: Path, student: str) -> SampleSource:
    """Return the samples of a student's training."""
    pipeline = Pipeline(load(profile))
    asset = pipeline.graph[f"student/{student}"]
    (slice_,) = asset.slices.values()
    task = pipeline.task_for(asset, slice_, None)
    batch = TaskBatch(pipeline, asset, None, [task], silent)
    settings = pipeline.profile.student(student)
    image_text = build(settings.model)
    return objective_and_source(batch, task, settings, image_text)[1]


def test_a_plain_student_can_also_train_on_a_corpus(tiny: Path) -> None:
    pipeline = Pipeline(load(tiny))
    for group in pipeline.profile.group_names:
        pipeline.materialize("raw_shards", group)
    corpus = pipeline.materialize("caption_corpus/clean").samples
    alone = len(opened(tiny, "plain"))
    values = yaml.safe_load(tiny.read_text())
    (plain,) = (student for student in values["students"] if student["name"] == "plain")
    plain["corpora"] = ["clean"]
    tiny.write_text(yaml.safe_dump(values))
    together = opened(tiny, "plain")
    assert len(together) == alone + corpus > alone
    assert {name: value.dtype for name, value in together.sample(0, alone).items()} == {
        "image": torch.uint8,
        "text": torch.int64,
    }
    graph = build_graph(load(tiny))
    assert AssetKey.of("caption_corpus", "clean") in graph["student/plain"].upstream


@pytest.mark.parametrize("student", ["plain", "pupil"])
def test_the_profile_can_enable_sampling_with_replacement(materialized: Callable[..., Pipeline], student: str) -> None:
    profile = Path(materialized("reinforced_dataset").profile.file)
    values = yaml.safe_load(profile.read_text())
    (settings,) = (each for each in values["students"] if each["name"] == student)
    settings["sampling"] = "with_replacement"
    other = profile.with_name(f"drawn-{student}.yaml")
    other.write_text(yaml.safe_dump(values))
    once, drawn = ([int(i) for chunk in opened(path, student).order(0) for i in chunk] for path in (profile, other))
    assert sorted(once) == list(range(len(once))) and len(drawn) == len(once) and set(drawn) < set(once)
    declared = [build_graph(load(path))[f"student/{student}"].slices["whole"].declared for path in (profile, other)]
    assert "sampling" not in declared[0] and declared[1]["sampling"] == "with_replacement"


@pytest.mark.parametrize(
    ("render", "recorded"),
    [
        ({}, {"size": 32, "interpolation": "bicubic", "translation": "pixels"}),
        ({"translation": "scaled"}, {"size": 32, "interpolation": "bicubic", "translation": "scaled"}),
        ({"interpolation": "model", "translation": "scaled"}, None),  # as before the setting existed
    ],
)
def test_a_stored_student_records_how_its_views_were_rendered(tiny, tmp_path, render, recorded):
    values = yaml.safe_load(tiny.read_text())
    (plain,) = (student for student in values["students"] if student["name"] == "plain")
    plain["render"] = render
    tiny.write_text(yaml.safe_dump(values))
    pipeline = Pipeline(load(tiny))
    for group in pipeline.profile.group_names:
        pipeline.materialize("raw_shards", group)
    pipeline.materialize("student/plain")
    (stored,) = pipeline.read("student/plain")
    assert json.loads(stored.fetch(CONFIG).read_text()).get(VIEWS) == recorded
    assert load_image_text(stored, pipeline.inventory).config.get(VIEWS) == recorded
    for name in (CONFIG, WEIGHTS):
        (tmp_path / name).write_bytes(stored.fetch(name).read_bytes())
    assert open_clip.create_model(f"local-dir:{tmp_path}").visual.image_size == (32, 32)
