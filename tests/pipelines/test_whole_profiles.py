"""Run the complete profile ``fine-tune`` and those of the documentation, with models from a stand-in of the hub.

Profiles are scaled down: a few samples, one group and one training step. All models on the hub have random weights.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file

from benchmarks._small_models import snapshot_folder, write_cache
from demo.tars import write_tar
from mobileclip2.config import profile, published
from mobileclip2.config.model import Model
from mobileclip2.config.teacher import Locked
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.models.build import build
from mobileclip2.teachers.trunk import trunk_config
from pipelines.profiles import PROFILES
from pipelines.run import refresh
from tests.hub import Hub, serving
from tests.mobileclip2.teachers.test_towers import text_folder
from tests.pipelines.test_run import Observer
from tests.test_docs import BLOCKS, SMALLEST
from tests.test_docs_models import architecture, with_small_weights
from tests.tiny import CLASSES, draw, encode, make_tiny

TRAINING = {"steps": 1, "batch": 4, "warmup": 0, "workers": 0, "checkpoint_every": 1}
REAL = "MobileCLIP2-S0"
"""The architecture that ``fine-tune`` trains at full size"""


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setenv("MOBILECLIP2_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(published, "architecture", published.architecture)
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", dict(open_clip.factory._MODEL_CONFIGS))
    with serving(monkeypatch, tmp_path / "hub") as hub:
        yield hub


def scaled(values: dict[str, Any]) -> dict[str, Any]:
    """Return a profile with the same models and stages, and less work."""
    values = json.loads(json.dumps(values))
    values.update(groups=1, batch=4, max_bad_share=0.9, views={**values.get("views", {}), "count": 2})
    for captioner in values.get("captioners", []):
        captioner["captions"] = 1
        captioner["generation"] = {"max_tokens": 8, "min_tokens": 4}
    entries = [*values.get("captioners", []), *values.get("students", [])]
    entries += [teacher["locked"] for teacher in values.get("teachers", []) if "locked" in teacher]
    for entry in entries:
        if "train" in entry:
            entry["train"] = _short(entry["train"])
    for student in values.get("students", []):
        if "between" in student:
            student["between"]["weights"] = [0, 0.5, 1]
    for row in (row for study in values.get("studies", []) for row in study.get("rows", [])):
        if "train" in row:
            row["train"] = _short(row["train"])
    return values


def _short(train: dict[str, Any]) -> dict[str, Any]:
    return {**{name: value for name, value in train.items() if name != "samples"}, **TRAINING}


def whole(values: dict[str, Any], folder: Path, hub: Hub, real: Collection[str] = ()) -> Pipeline:
    """Write a profile and all files that it names, and publish its models on the hub."""
    tiny = make_tiny(folder / "tiny", shards=1).parent
    file = folder / "profile.yaml"
    file.write_text(yaml.safe_dump(values, sort_keys=False))
    loaded = profile.load(file)
    for source in loaded.sources:
        shutil.copytree(tiny / "shards", loaded.locate(source.url), dirs_exist_ok=True)
    for corpus in loaded.caption_corpora:
        shutil.copytree(tiny / "corpus", loaded.locate(corpus.url), dirs_exist_ok=True)
    for each in loaded.evaluation:
        target = Path(loaded.locate(each.url))
        if each.name.startswith("retrieval/"):
            _retrieval(target)
        else:
            shutil.copytree(tiny / "evaluation" / "shapes", target, dirs_exist_ok=True)
    cache = folder / "published"
    models = [entry.model for kind in ("teachers", "captioners", "students") for entry in getattr(loaded, kind)]
    models = list({model.model_dump_json(): model for model in models if model}.values())
    write_cache(cache, [name for name in map(architecture, models) if name])
    for number, model in enumerate(models):
        if model.open_clip in real:
            continue
        weights = with_small_weights(model, cache, folder / "small" / str(number))
        if weights:
            _place(weights, Path(loaded.locate(model.weights.path)))
    for teacher in loaded.teachers:
        if teacher.locked:
            _towers(teacher.locked, loaded, cache)
    for captioner in loaded.captioners:
        if captioner.trunk_weights and captioner.trunk_weights.path:
            _trunk("tf_efficientnet_lite0", Path(loaded.locate(captioner.trunk_weights.path)))
    for repository in cache.glob("models--*"):
        (snapshot,) = (repository / "snapshots").iterdir()
        name = repository.name.removeprefix("models--").replace("--", "/")
        commits, pushed = hub.commits, hub.push_folder(name, snapshot)
        # The profile names this commit.
        commits[name][snapshot.name] = commits[name][pushed]
    return Pipeline(loaded)


def _retrieval(folder: Path) -> None:
    """Write a set of images with captions in the published layout."""
    (folder / "test").mkdir(parents=True)
    (folder / "dataset_type.txt").write_text("retrieval\n")
    (folder / "test" / "nshards.txt").write_text("1\n")
    members = [
        (f"{number}.{kind}", encode(draw(label, label), "WEBP") if kind == "webp" else f"a {label}".encode())
        for number, label in enumerate(CLASSES)
        for kind in ("webp", "txt")
    ]
    write_tar(folder / "test" / "0.tar", members)


def _place(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    source.rename(target)


def _trunk(name: str, file: Path) -> None:
    torch.manual_seed(2)
    file.parent.mkdir(parents=True, exist_ok=True)
    state = {key: tensor.contiguous().clone() for key, tensor in timm.create_model(name).state_dict().items()}
    if file.suffix == ".safetensors":
        save_file(state, file)
    else:
        torch.save(state, file)


def _towers(spec: Locked, loaded: profile.Profile, cache: Path) -> None:
    """Write the towers of a locked teacher where its profile expects them."""
    if spec.trunk_weights.tag:
        snapshot = snapshot_folder(cache, trunk_config(spec).hf_hub_id)
        _trunk(spec.trunk.partition(".")[0], snapshot / "model.safetensors")
    elif spec.trunk_weights.path:
        _trunk(spec.trunk.partition(".")[0], Path(loaded.locate(spec.trunk_weights.path)))
    if spec.text:
        text_folder(snapshot_folder(cache, spec.text), "bert")
    elif spec.text_weights and spec.text_weights.path:
        text_folder(Path(loaded.locate(spec.text_weights.path)).parent, "bert")


def publish_real(hub: Hub, name: str, tag: str, folder: Path) -> None:
    """Serve random weights of an architecture at full size."""
    state = build(Model(open_clip=name), seed=5).model.state_dict()
    save_file({key: tensor.contiguous().clone() for key, tensor in state.items()}, folder / "weights.safetensors")
    repository, _, file = published.pretrained(name)[tag]["hf_hub"].rpartition("/")
    stem = file.rpartition(".")[0] or "open_clip_model"
    hub.push(repository, {f"{stem}.safetensors": (folder / "weights.safetensors").read_bytes()})


@pytest.mark.slow
def test_fine_tune(tmp_path, hub, instance):
    values = scaled(yaml.safe_load((PROFILES / "fine-tune.yaml").read_text()))
    kept = {"mine-dev", "imagenet1k", "retrieval/flickr_1k_test_image_text_retrieval"}
    values["evaluation"] = [each for each in values["evaluation"] if each["name"] in kept]
    publish_real(hub, REAL, "dfndr2b", tmp_path)
    pipeline = whole(values, tmp_path, hub, real=[REAL])
    observer = Observer()
    refresh(pipeline, instance, None, observer)
    assert not list(pipeline.stale())
    assert {label.partition(" [")[0] for label in observer.labels("end")} == set(pipeline.graph)
    (between,) = pipeline.read("student/s0_between")
    assert 0 <= between.manifest.facts["weight"] <= 1
    (start,), (tuned,) = pipeline.read("student/s0"), pipeline.read("student/s0_tuned")
    assert start.manifest.facts != {} and tuned.manifest.files != start.manifest.files
    evaluated = {stored.summary.group for stored in pipeline.read("evaluation/s0_between")}
    assert evaluated == {each.name for each in pipeline.profile.evaluation}
    assert any("apple/DFN2B-CLIP-ViT-L-14" in request for request in hub.asked)


RUN = [
    name
    for name, block in BLOCKS.items()
    if set(yaml.safe_load(block)) & {"teachers", "captioners", "students"} and "s3://" not in block
]


@pytest.mark.long
@pytest.mark.parametrize("name", RUN)
def test_a_documented_profile_runs(name, tmp_path, hub, instance):
    pipeline = whole(scaled({**SMALLEST, **yaml.safe_load(BLOCKS[name])}), tmp_path, hub)
    refresh(pipeline, instance, None, Observer())
    assert not list(pipeline.stale())
