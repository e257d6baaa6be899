"""Test which parts a change recomputes. Each test is a row of the table in docs/change-one-thing.md."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from demo.tars import write_tar
from mobileclip2.config.profile import load
from mobileclip2.engine import graph
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.engine.plan import plan, rows, selected
from mobileclip2.stages import augmentations
from tests.tiny import draw, encode, make_tiny

pytestmark = pytest.mark.slow

DATASET = {"reinforced_dataset"}
LEARNT = {"student/pupil", "evaluation/pupil"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Materialize a tiny pipeline. Its first captioner trains on the clean set, so source shards affect no model."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("finished") / "tiny"
    profile = make_tiny(folder)
    values = read(profile)
    values["captioners"][0]["train_on"] = "caption_corpus/clean"
    profile.write_text(yaml.safe_dump(values, sort_keys=False))
    run(Pipeline(load(profile)))
    return folder


@pytest.fixture
def profile(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "tiny") / "tiny.yaml"


def read(profile):
    # YAML anchors share objects, but a change must affect only one place
    return json.loads(json.dumps(yaml.safe_load(profile.read_text())))


def change(profile, edit):
    values = read(profile)
    edit(values)
    profile.write_text(yaml.safe_dump(values, sort_keys=False))
    return Pipeline(load(profile))


def run(pipeline):
    """Compute the missing parts and return them as (asset, part, group)."""
    computed = set()
    for asset, group in pipeline.stale():
        done = pipeline.materialize(asset.key, group)
        computed |= {(asset.key, part, group) for part in done.computed}
    return computed


def assets(computed):
    return {asset for asset, _, _ in computed}


def planned(pipeline):
    return {(item.asset, item.slice, item.group) for item in plan(pipeline).items}


def rerun(pipeline):
    """Return the parts that a change computes. Check that all were planned and that the next plan is empty."""
    before = planned(pipeline)
    computed = run(pipeline)
    assert computed <= before
    assert planned(pipeline) == set()
    return computed


def embeddings(teacher, *kinds):
    return {f"teacher_embeddings/{teacher}/{kind}" for kind in kinds}


def test_changed_weights_recompute_the_teacher_and_its_downstream(profile):
    path = profile.parent / "weights/narrow.safetensors"
    before = path.read_bytes()
    save_file({name: tensor * 1.1 for name, tensor in load_file(path).items()}, path)
    pipeline = Pipeline(load(profile))
    (first, *_) = plan(pipeline).items
    assert first.asset == "teacher/narrow" and first.reasons[0].startswith("weights ")
    expected = {"teacher/narrow", *embeddings("narrow", "image", "text", "first", "second"), *DATASET, *LEARNT}
    assert assets(rerun(pipeline)) == expected | {"evaluation/narrow"}
    # changing back recomputes no part
    path.write_bytes(before)
    assert rerun(Pipeline(load(profile))) == set()


def test_an_added_teacher_keeps_the_embeddings_of_the_others(profile):
    pipeline = change(
        profile, lambda values: values["teachers"].append({**values["teachers"][0], "name": "third", "logit_scale": 9})
    )
    expected = {"teacher/third", *embeddings("third", "image", "text", "first", "second"), *DATASET, *LEARNT}
    assert assets(rerun(pipeline)) == expected | {"evaluation/third"}


@pytest.mark.parametrize("edit", [lambda teachers: teachers.pop(), lambda teachers: teachers.reverse()])
def test_removed_or_reordered_teachers_keep_all_embeddings(profile, edit):
    pipeline = change(profile, lambda values: edit(values["teachers"]))
    assert assets(rerun(pipeline)) == DATASET | LEARNT


def test_a_changed_fine_tuning_set_recomputes_its_captioners(profile):
    corpus = profile.parent / "corpus" / "00001.tar"
    write_tar(corpus, [("x.jpg", encode(draw("red circle", "new"))), ("x.txt", b"a red circle, newly drawn")])
    # both captioners of this profile train on that set
    own = {f"{stage}/{name}" for stage in ("captioner", "synthetic_captions") for name in ("first", "second")}
    texts = {asset for teacher in ("wide", "narrow") for asset in embeddings(teacher, "first", "second")}
    assert assets(rerun(Pipeline(load(profile)))) == {"caption_corpus/clean"} | own | texts | DATASET | LEARNT


def test_an_added_captioner_keeps_the_outputs_of_the_others(profile):
    def add(values):
        values["captioners"].append({**values["captioners"][1], "name": "third"})

    computed = assets(rerun(change(profile, add)))
    own = {"captioner/third", "synthetic_captions/third", *embeddings("wide", "third"), *embeddings("narrow", "third")}
    assert computed == own | DATASET | LEARNT


def test_two_added_views_keep_the_existing_views(profile):
    computed = rerun(change(profile, lambda values: values["views"].update(count=4)))
    assert assets(computed) == {
        "augmentations",
        *embeddings("wide", "image"),
        *embeddings("narrow", "image"),
        *DATASET,
        *LEARNT,
    }
    assert {part for _, part, _ in computed} == {"view-2", "view-3", "whole", "shapes"}


def test_an_added_caption_keeps_the_existing_captions(profile):
    computed = rerun(change(profile, lambda values: values["captioners"][0].update(captions=3)))
    assert assets(computed) == {
        "synthetic_captions/first",
        *embeddings("wide", "first"),
        *embeddings("narrow", "first"),
        *DATASET,
        *LEARNT,
    }
    assert {part for _, part, _ in computed} == {"caption-2", "whole", "shapes"}


def test_a_changed_logit_scale_retrains_only_its_students(profile):
    pipeline = change(profile, lambda values: values["teachers"][0].update(logit_scale=51))
    assert plan(pipeline).items[0].reasons == ("logit_scales [50, 30] -> [51, 30]",)
    assert assets(rerun(pipeline)) == LEARNT


@pytest.mark.parametrize("edit", ["added", "replaced", "removed"])
def test_a_changed_shard_recomputes_only_its_group_and_the_models(profile, edit):
    shards = profile.parent / "shards"
    if edit == "added":
        renamed = shards / "00005.tar"  # in the second of two groups
        other = make_tiny(profile.parent / "other", shards=6).parent / "shards" / "00005.tar"
        shutil.copy(other, renamed)
    elif edit == "replaced":
        shutil.copy(shards / "00001.tar", shards / "00003.tar")
    else:
        (shards / "00003.tar").unlink()
    computed = rerun(Pipeline(load(profile)))
    whole = {*LEARNT, "student/plain", "evaluation/plain"}
    assert {group for asset, _, group in computed if asset not in whole} == {"g01"}
    assert whole < assets(computed)


def test_an_added_evaluation_set_evaluates_every_model_on_it(profile):
    pipeline = change(
        profile, lambda values: values["evaluation"].append({"name": "again", "url": "evaluation/shapes"})
    )
    models = ("pupil", "plain", "wide", "narrow")
    assert rerun(pipeline) == {(f"evaluation/{model}", "again", "again") for model in models}


def test_runtime_settings_and_comments_recompute_no_part(profile):
    def edit(values):
        values.update(batch=3, device="cpu", rates={"student": 5.0}, max_bad_share=0.4)
        values["students"][0]["train"].update(workers=2, log_every=1, checkpoint_every=7)

    assert rerun(change(profile, edit)) == set()
    profile.write_text(f"# a comment\n{profile.read_text()}")
    assert rerun(Pipeline(load(profile))) == set()


def test_a_reverted_change_recomputes_no_part(profile):
    text = profile.read_text()
    assert rerun(change(profile, lambda values: values["students"][0]["train"].update(seed=5)))
    profile.write_text(text)
    assert rerun(Pipeline(load(profile))) == set()


def test_new_code_with_equal_bytes_stops_propagation(profile, monkeypatch):
    monkeypatch.setitem(graph.CODE_VERSIONS, "augmentations", "99")
    pipeline = Pipeline(load(profile))
    why = {item.reasons for item in plan(pipeline).items if item.asset == "augmentations"}
    assert why == {("code version 1 -> 99",)}
    assert assets(rerun(pipeline)) == {"augmentations"}


def test_new_code_with_other_bytes_propagates(profile, monkeypatch):
    monkeypatch.setitem(graph.CODE_VERSIONS, "augmentations", "99")
    sample_view = augmentations.sample_view
    monkeypatch.setattr(
        augmentations, "sample_view", lambda settings, seed, *where: sample_view(settings, seed + 1, *where)
    )
    computed = assets(rerun(Pipeline(load(profile))))
    images = {*embeddings("wide", "image"), *embeddings("narrow", "image")}
    assert computed == {"augmentations"} | images | DATASET | LEARNT


def test_a_plan_of_some_assets_includes_their_upstream(profile):
    pipeline = change(profile, lambda values: values["views"].update(seed=9))
    assert selected(pipeline, ["teacher_embeddings/wide/image"]) == [
        "raw_shards",
        "augmentations",
        "teacher/wide",
        "teacher_embeddings/wide/image",
    ]
    chosen = plan(pipeline, ["teacher_embeddings/wide/image"])
    assert {row.asset for row in rows(chosen)} == {"augmentations", "teacher_embeddings/wide/image"}
    assert rows(chosen)[0].reasons == ("seed 1 -> 9",)
    assert rows(chosen)[1].reasons == ("upstream augmentations",)


def test_costs_come_from_logged_times(profile):
    pipeline = change(profile, lambda values: values["views"].update(seed=9))
    item = next(item for item in plan(pipeline).items if item.asset == "teacher_embeddings/wide/image")
    assert item.cost.samples == pipeline.read("raw_shards", item.group)[0].summary.samples
    assert item.cost.seconds > 0 and item.cost.bytes > 0 and not item.cost.unknown


class TestDamage:
    def test_a_changed_manifest_is_named_and_recomputed(self, profile):
        pipeline = Pipeline(load(profile))
        path = manifest_of(pipeline, "teacher_embeddings/wide/text")
        before = path.read_bytes()
        path.write_text(path.read_text().replace('"samples": ', '"samples": 1'))
        (item, *_) = plan(pipeline).items
        assert item.asset == "teacher_embeddings/wide/text"
        assert item.reasons[0].startswith("damaged") and str(path) in item.reasons[0]
        assert assets(rerun(pipeline)) == {"teacher_embeddings/wide/text"}
        assert path.read_bytes() == before

    @pytest.mark.parametrize("damage", ["gone", "shorter", "other bytes of the same length"])
    def test_changed_bytes_are_named_and_recomputed(self, profile, damage):
        pipeline = Pipeline(load(profile))
        assert planned(pipeline) == set()
        path = next(manifest_of(pipeline, "teacher_embeddings/wide/text").parent.glob("*.parquet"))
        before = path.read_bytes()
        if damage == "gone":
            path.unlink()
        else:
            path.write_bytes(before[:-1] + (b"" if damage == "shorter" else bytes([before[-1] ^ 1])))
        (item, *_) = plan(pipeline).items
        assert path.name in item.reasons[0]
        rerun(pipeline)
        assert path.read_bytes() == before

    def test_every_byte_option_finds_changes_with_equal_size_and_times(self, profile):
        pipeline = Pipeline(load(profile))
        assert planned(pipeline) == set()
        path = next(manifest_of(pipeline, "teacher_embeddings/wide/text").parent.glob("*.parquet"))
        before, stat = path.read_bytes(), path.stat()
        path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert planned(pipeline) == set(), "size and times are as they were"
        (item, *_) = plan(pipeline, every_byte=True).items
        assert path.name in item.reasons[0]
        rerun(pipeline)
        assert path.read_bytes() == before

    def test_an_output_with_a_deleted_manifest_is_planned(self, profile):
        pipeline = Pipeline(load(profile))
        path = manifest_of(pipeline, "augmentations")
        path.unlink()
        (item, *_) = plan(pipeline).items
        assert item.asset == "augmentations"
        assert assets(rerun(pipeline)) == {"augmentations"}


def manifest_of(pipeline, key):
    return Path(pipeline.storage.url) / pipeline.read(key)[0].prefix / "manifest.json"


RUN = """
import sys
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.config.profile import load
pipeline = Pipeline(load(sys.argv[1]))
for asset, group in pipeline.stale():
    for part in pipeline.materialize(asset.key, group).computed:
        print(asset.key, part, group, flush=True)
"""


def start(profile):
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(profile)], stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
    )


def test_concurrent_runs_share_the_work(profile):
    change(profile, lambda values: values["views"].update(seed=9))
    before = planned(Pipeline(load(profile)))
    runs = [start(profile) for _ in range(2)]
    lines = [line for each in runs for line in each.communicate(timeout=120)[0].splitlines()]
    assert [each.returncode for each in runs] == [0, 0]
    assert len(lines) == len(set(lines)), "something was computed twice"
    assert len(lines) == len(before)
    pipeline = Pipeline(load(profile))
    assert planned(pipeline) == set()
    for key in pipeline.graph:
        for each in pipeline.read(key):
            assert each.verify(each.manifest) == []


def test_a_killed_run_leaves_a_correct_plan(profile):
    change(profile, lambda values: values["views"].update(seed=9))
    before = planned(Pipeline(load(profile)))
    killed = start(profile)
    assert killed.stdout is not None
    lines = [killed.stdout.readline() for _ in range(4)]
    os.kill(killed.pid, signal.SIGKILL)
    lines += killed.communicate()[0].splitlines()
    done = {(asset, part, None if group == "None" else group) for asset, part, group in map(str.split, lines)}
    left = planned(Pipeline(load(profile)))
    assert left <= before - done
    # at most one part finished without being logged
    assert len(before - done - left) <= 2
    assert run(Pipeline(load(profile))) == left
