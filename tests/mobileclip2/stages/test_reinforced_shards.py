from __future__ import annotations

import gzip
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from demo.tars import write_tar
from mobileclip2.config.profile import load
from mobileclip2.data import sidecar
from mobileclip2.data.reinforced_format import pack
from mobileclip2.engine.graph import REINFORCED_DATASET
from mobileclip2.engine.lineage import LINEAGE, read_lineage
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.errors import ProfileError, ShardError, UserError
from mobileclip2.training.data import ReinforcedSource
from mobileclip2.training.objectives import Reinforced
from tests.mobileclip2.stages.published_shards import (
    CAPTIONS,
    DIMS,
    TEACHERS,
    VIEWS,
    embeddings,
    members,
    picture,
    published_profile,
    write_images,
    write_shards,
)

ASSET = "reinforced_shards/datacompdr"


def opened(tiny: Path, values: dict[str, Any]) -> Pipeline:
    tiny.write_text(yaml.safe_dump(values))
    return Pipeline(load(tiny))


def run_all(pipeline: Pipeline) -> None:
    for asset, group in pipeline.stale():
        pipeline.materialize(asset.key, group)


def trained_source(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> tuple[Reinforced, ReinforcedSource]:
    """Train the pupil, and return the objective and the source of its training."""
    from mobileclip2.stages import student

    found: list[Any] = []
    original = student.objective_and_source

    def keep(*arguments: Any) -> Any:
        found.append(original(*arguments))
        return found[-1]

    monkeypatch.setattr(student, "objective_and_source", keep)
    run_all(pipeline)
    objective, source = found[0]
    return objective, source


@pytest.mark.parametrize("npz", [False, True])
def test_a_student_learns_from_shards_in_the_v1_layout(tiny: Path, monkeypatch: pytest.MonkeyPatch, npz: bool) -> None:
    write_shards(tiny.parent / "published", npz=npz)
    pipeline = opened(tiny, published_profile(tiny))
    assert list(pipeline.graph) == [ASSET, "student/pupil", "evaluation/pupil"]
    objective, source = trained_source(pipeline, monkeypatch)
    assert (list(objective.teacher_dims), list(objective.teacher_scales)) == (list(DIMS), [100, 90])
    assert len(source) == 12 and source.dim == sum(DIMS)
    (stored,) = pipeline.read("student/pupil")
    assert {each.asset for each in read_lineage(stored.fetch(LINEAGE)).nodes.values()} == {ASSET, "student/pupil"}
    facts = pipeline.read(ASSET, "g00")[0].manifest.facts
    assert facts == {
        "teachers": ["openai", "datacomp"],
        "teacher_dims": {"openai": DIMS[0], "datacomp": DIMS[1]},
        "views": [VIEWS],
        "captions": {"syn_text": [CAPTIONS, CAPTIONS]},
    }
    assert not list(pipeline.stale())


def test_a_sample_pairs_captions_and_views_with_their_embeddings(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the released reader, ``text_emb`` contains the real caption first, then the synthetic captions."""
    write_shards(tiny.parent / "published")
    _, source = trained_source(opened(tiny, published_profile(tiny)), monkeypatch)
    seen = {"view": set(), "caption": set()}
    for epoch in range(8):
        for index in range(len(source)):
            sample = source.sample(epoch, index)
            texts = [embeddings(1000 + index, 1 + CAPTIONS).float(), embeddings(index, VIEWS).float()]
            assert torch.equal(sample["teacher_text"], texts[0][0])
            (caption,) = [n for n in range(CAPTIONS) if torch.equal(sample["teacher_synthetic_text"], texts[0][1 + n])]
            (view,) = [n for n in range(VIEWS) if torch.equal(sample["teacher_image"], texts[1][n])]
            expected = source._tokens(f"a drawn shape {index} {caption}")
            assert torch.equal(sample["synthetic_text"], expected)
            seen["view"].add(view)
            seen["caption"].add(caption)
    assert seen == {"view": set(range(VIEWS)), "caption": set(range(CAPTIONS))}


@pytest.mark.parametrize("uid", [False, True])
def test_images_are_joined_by_key_and_missing_ones_counted(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, uid: bool
) -> None:
    write_shards(tiny.parent / "published", images=False)
    write_images(tiny.parent / "pictures", range(1, 12), uid=uid)
    values = published_profile(tiny, images={"url": "pictures", "uid": uid})
    pipeline = opened(tiny, values)
    _, source = trained_source(pipeline, monkeypatch)
    assert len(source) == 11
    (stored,) = pipeline.read(ASSET, "g00")
    assert stored.manifest.skip_reasons == {"missing-image": 1}
    (skipped,) = [file.name for file in stored.manifest.files if ".skipped." in file.name]
    (row,) = sidecar.read(stored.fetch(skipped)).to_pylist()
    assert row["key"] == "uid0000" and "no image of this key" in row["detail"]
    assert source.sample(0, 0)["image"].shape == (32, 32, 3)


def test_shards_without_images_are_refused(tiny: Path) -> None:
    write_shards(tiny.parent / "published", images=False)
    with pytest.raises(ShardError, match=r"missing-image: 6 \(uid0000"):
        opened(tiny, published_profile(tiny)).materialize(ASSET, "g00")


def test_a_joined_image_that_changes_after_validation_is_refused(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shards(tiny.parent / "published", images=False)
    write_images(tiny.parent / "pictures", range(12))
    pipeline = opened(tiny, published_profile(tiny, images={"url": "pictures"}))
    _, source = trained_source(pipeline, monkeypatch)
    for path in (tiny.parent / "pictures").iterdir():
        data = path.read_bytes()
        path.write_bytes(data.replace(b"\xff\xda", b"\xff\xdb"))
    fresh = {(shard, row) for shard, row in source._sample_cache}
    source._sample_cache.clear()
    source._view_cache.clear()
    assert fresh
    with pytest.raises(ShardError, match=r"changed since it was validated|cannot be read"):
        source.sample(0, 0)
    changed = Pipeline(load(tiny))
    assert ASSET in {asset.key for asset, _ in changed.stale()}


@pytest.mark.parametrize(
    ("teachers", "message"),
    [
        (TEACHERS[:1], r"embeddings have 32 numbers, and the dimensions \[24\] add up to 24"),
        ([{"name": "a", "logit_scale": 1}, {"name": "b", "logit_scale": 1}], r"32 numbers.*state 'dim'"),
        ([{**TEACHERS[1], "dim": 20}, {**TEACHERS[0], "dim": 12}], r"bad-embedding: 6"),
    ],
)
def test_teachers_that_the_shards_do_not_have_are_refused(
    tiny: Path, teachers: list[dict[str, Any]], message: str
) -> None:
    write_shards(tiny.parent / "published")
    with pytest.raises(ShardError, match=message):
        opened(tiny, published_profile(tiny, teachers=teachers)).materialize(ASSET, "g00")


def test_the_dataset_of_another_store_needs_no_dimensions(
    materialized: Callable[..., Pipeline], tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = materialized(REINFORCED_DATASET)
    copies = tiny.parent / "published"
    for group in other.profile.group_names:
        (artifact,) = other.read(REINFORCED_DATASET, group)
        for file in artifact.manifest.files:
            (copies / group).mkdir(parents=True, exist_ok=True)
            shutil.copy(artifact.fetch(file.name), copies / group / file.name)
    teachers = [{"name": "wide", "logit_scale": 50}, {"name": "narrow", "logit_scale": 30}]
    pipeline = opened(tiny, published_profile(tiny, teachers=teachers))
    objective, source = trained_source(pipeline, monkeypatch)
    assert (list(objective.teacher_dims), len(source)) == ([24, 8], 23)
    shutil.rmtree(pipeline.storage.url)
    swapped = opened(tiny, published_profile(tiny, teachers=teachers[::-1]))
    with pytest.raises(ShardError, match=r"its teachers are wide \(24\), narrow \(8\), not narrow, wide"):
        swapped.materialize(ASSET, "g00")


def test_a_folder_with_several_dataset_versions_is_refused(tiny: Path) -> None:
    for version in ("0123456789abcdef", "fedcba9876543210"):
        write_shards(tiny.parent / "published" / version / "g00")
    with pytest.raises(
        ShardError, match=r"holds 2 versions of a reinforced dataset, 0123456789abcdef, fedcba9876543210"
    ):
        opened(tiny, published_profile(tiny)).inventory.group_shards("g00", "datacompdr")


def test_a_student_learns_from_its_own_and_a_published_dataset(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shards(tiny.parent / "published")
    values = yaml.safe_load(tiny.read_text())
    teachers = [{"name": "wide", "dim": 24, "logit_scale": 50}, {"name": "narrow", "dim": 8, "logit_scale": 30}]
    values["reinforced"] = [{"name": "datacompdr", "url": "published", "teachers": teachers}]
    values["students"] = values["students"][:1]
    with pytest.raises(
        ProfileError, match=r"students.pupil.datasets: the profile has .*reinforced_dataset.*datacompdr"
    ):
        opened(tiny, values)
    values["students"][0]["datasets"] = ["datacompdr", "reinforced_dataset"]
    _, source = trained_source(opened(tiny, values), monkeypatch)
    assert len(source) == 23 + 12
    values["reinforced"][0]["teachers"][0]["logit_scale"] = 60
    with pytest.raises(ProfileError, match=r"same teachers.*'reinforced_dataset' has wide \(50\).*has wide \(60\)"):
        opened(tiny, values)


def test_damaged_samples_are_counted_with_their_reason(tiny: Path) -> None:
    good = {**picture(0), **members(0)}
    no_captions = pack({"image_emb": embeddings(0, VIEWS), "text_emb": embeddings(0, 1)}, "pth.gz")
    outside = json.dumps({"param_aug": [[[20, 1, 40, 40], None]] * VIEWS}).encode()
    samples = {
        "good": good,
        "bad-reinforcement": {**good, "pth.gz": b"no gzip"},
        "bad-view": {**good, "paug.json": outside},
        "missing-caption": {name: data for name, data in good.items() if name != "txt"},
        "changed-image": {**good, "json": json.dumps({"image_sha256": "0" * 64}).encode()},
        "truncated-image": {**good, "jpg": good["jpg"][:300]},
        "missing-synthetic-caption": {**good, "syn.json": b"{}", "pth.gz": no_captions},
    }
    found = [(f"{key}.{extension}", data) for key, parts in samples.items() for extension, data in parts.items()]
    write_tar(tiny.parent / "published" / "0.tar", found)
    values = published_profile(tiny) | {"max_bad_share": 1}
    result = opened(tiny, values).materialize(ASSET, "g00")
    assert result.samples == 1
    assert result.skip_reasons == {reason: 1 for reason in sorted(samples) if reason != "good"}


def test_a_pickle_is_not_opened(tiny: Path) -> None:
    marker = tiny.parent / "opened"

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (marker,)

    parts = {**picture(0), **members(0), "pth.gz": gzip.compress(pickle.dumps(Trap()))}
    write_tar(tiny.parent / "published" / "0.tar", [(f"a.{extension}", data) for extension, data in parts.items()])
    with pytest.raises(ShardError, match=r"bad-reinforcement: 1"):
        opened(tiny, published_profile(tiny)).materialize(ASSET, "g00")
    assert not marker.exists()


def test_an_unknown_captioner_error_lists_the_available_captions(tiny: Path) -> None:
    write_shards(tiny.parent / "published")
    values = published_profile(tiny)
    values["students"][0]["loss"] = {"captioners": ["coca"]}
    with pytest.raises(UserError, match=r"no synthetic caption matches.*'syn_text' \(2\)"):
        run_all(opened(tiny, values))


def test_dataset_fields_change_only_dependent_fingerprints(tiny: Path) -> None:
    write_shards(tiny.parent / "published")
    write_images(tiny.parent / "pictures", range(3))

    def versions(**source: Any) -> tuple[str, str]:
        pipeline = opened(tiny, published_profile(tiny, **source))
        asset, student = pipeline.graph[ASSET], pipeline.graph["student/pupil"]
        task = pipeline.task_for(asset, asset.slices["whole"], "g00")
        assert task
        return task.fingerprint, json.dumps(student.slices["whole"].declared)

    before = versions()
    scaled = versions(teachers=[{**TEACHERS[0], "logit_scale": 70}, TEACHERS[1]])
    assert scaled[0] == before[0] and scaled[1] != before[1]
    assert versions(license="CC-BY-4.0", pattern="*.tar") == before
    images = versions(images={"url": "pictures"})
    assert (
        versions(teachers=TEACHERS[::-1])[0]
        != before[0]
        != images[0]
        != versions(images={"url": "pictures", "uid": True})[0]
    )
    shutil.rmtree(tiny.parent / "pictures")
    write_images(tiny.parent / "pictures", range(4))
    assert versions(images={"url": "pictures"})[0] != images[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"reinforced": []},
            "sources: missing; name at least one folder of shards, or published shards in 'reinforced'",
        ),
        ({"students": [{"name": "a", "data": "raw"}]}, "'raw' needs 'sources'"),
        (
            {"students": [{"name": "a", "datasets": ["datacomdr"]}]},
            "there is no 'datacomdr'; did you mean 'datacompdr'",
        ),
        (
            {"students": [{"name": "a", "datasets": ["datacompdr"], "data": "raw"}]},
            "'datasets' needs 'data: reinforced'",
        ),
        ({"students": [{"name": "a", "loss": {"logit_scales": {"x": 1}}}]}, "loss.logit_scales: there is no 'x'"),
    ],
)
def test_invalid_profiles_of_published_shards_are_refused(tiny: Path, change: dict[str, Any], message: str) -> None:
    values = published_profile(tiny)
    fields = {name: values["students"][0][name] for name in ("model", "train")}
    students = [{**fields, **student} for student in change.get("students", values["students"])]
    with pytest.raises(ProfileError, match=message):
        opened(tiny, {**values, **change, "students": students})
