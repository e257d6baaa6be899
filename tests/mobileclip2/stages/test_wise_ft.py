"""Test an interpolated student of a tiny pipeline."""

from __future__ import annotations

import json
import os
import shutil
import signal

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from mobileclip2.config.profile import load
from mobileclip2.engine.lineage import LINEAGE, branches, read_lineage
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.engine.plan import plan
from mobileclip2.engine.trace import lineage_of
from mobileclip2.evaluation.wise_ft import CURVE, read_curve
from mobileclip2.models.build import WEIGHTS as FILE
from mobileclip2.models.tensors import interpolated
from mobileclip2.report.gather import gather
from mobileclip2.report.pipeline import render_pipeline
from mobileclip2.report.sheets import between_sheet
from mobileclip2.stages import wise_ft as between
from mobileclip2.stages.stored_results import stored_results
from tests.mobileclip2.stages.small_wise_ft import WEIGHTS, add_tuning
from tests.processes import run_process
from tests.tiny import make_tiny

pytestmark = pytest.mark.slow


def run(pipeline):
    for asset, group in pipeline.stale():
        pipeline.materialize(asset.key, group)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    torch.set_num_threads(1)
    profile = make_tiny(tmp_path_factory.mktemp("between") / "tiny")
    add_tuning(profile)
    run(Pipeline(load(profile)))
    return profile.parent


@pytest.fixture
def profile(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "tiny") / "tiny.yaml"


def weights(pipeline, name):
    (read,) = pipeline.read(f"student/{name}")
    return load_file(read.fetch(FILE))


def stored_curve(pipeline, name="between"):
    (read,) = pipeline.read(f"student/{name}")
    return read_curve(read.fetch(CURVE)), read.manifest.facts["weight"]


def edited(profile, change):
    values = json.loads(json.dumps(yaml.safe_load(profile.read_text())))
    change({student["name"]: student for student in values["students"]}, values)
    profile.write_text(yaml.safe_dump(values, sort_keys=False))
    return Pipeline(load(profile))


def same(one, other):
    return list(one) == list(other) and all(
        one[name].numpy().tobytes() == other[name].numpy().tobytes() for name in one
    )


def test_the_ends_of_the_curve_equal_the_evaluations(profile):
    pipeline = Pipeline(load(profile))
    curve, _ = stored_curve(pipeline)
    assert [point.weight for point in curve] == WEIGHTS
    for point, model in ((curve[0], "before"), (curve[-1], "after")):
        assert point.metrics == {result.key: result.metrics for result in stored_results(pipeline, model)}
    assert any(curve[1].metrics != point.metrics for point in (curve[0], curve[-1]))


def test_the_picked_point_is_stored(profile):
    pipeline = Pipeline(load(profile))
    curve, picked = stored_curve(pipeline)
    start = curve[0].main("shapes")
    kept = [point for point in curve if point.main("shapes") >= start - 0.1 - 1e-9]
    best = max(point.main("own") for point in kept)
    assert picked == min(point.weight for point in kept if point.main("own") == best)
    expected = interpolated(weights(pipeline, "before"), weights(pipeline, "after"), picked)
    assert same(weights(pipeline, "between"), expected)
    (point,) = [point for point in curve if point.weight == picked]
    assert point.metrics == {result.key: result.metrics for result in stored_results(pipeline, "between")}


@pytest.mark.parametrize(("only", "model"), [(0, "before"), (1, "after")])
def test_weight_0_is_the_start_and_weight_1_the_end(profile, only, model, monkeypatch):
    """The middle point differs from both ends. Another rule picks another point of the same curve."""
    monkeypatch.setattr(between, "pick", lambda curve, rule: next(p for p in curve if p.weight == only))
    pipeline = edited(profile, lambda students, _: students["between"]["between"]["pick"].update(within=0.5))
    pipeline.materialize("student/between")
    assert same(weights(pipeline, "between"), weights(pipeline, model))
    middle = interpolated(weights(pipeline, "before"), weights(pipeline, "after"), 0.5)
    other = weights(pipeline, model)
    changed = [name for name in middle if not torch.equal(middle[name], other[name])]
    assert any("running_var" in name for name in changed) and len(changed) > len(middle) / 2


def test_changes_recompute_only_their_downstream(profile):
    def stale(change):
        return {item.asset for item in plan(edited(profile, change)).items}

    ours = {"student/between", "evaluation/between"}
    assert plan(Pipeline(load(profile))).items == ()
    before = profile.read_text()
    for change in (
        lambda students, _: students["between"]["between"].update(weights=[0, 0.5, 1]),
        lambda students, _: students["between"]["between"]["pick"].update(within=0.2),
    ):
        assert stale(change) == ours
        profile.write_text(before)
    assert stale(lambda students, _: students["after"]["train"].update(seed=3)) == ours | {
        "student/after",
        "evaluation/after",
    }
    profile.write_text(before)
    (profile.parent / "evaluation" / "shapes" / "classnames.txt").write_text("changed\n" * 12)
    assert {"student/between", "evaluation/between"} < {item.asset for item in plan(Pipeline(load(profile))).items}


def test_a_plan_states_its_reasons(profile):
    pipeline = edited(profile, lambda students, _: students["between"]["between"]["pick"].update(within=0.2))
    (item,) = [item for item in plan(pipeline).items if item.asset == "student/between"]
    assert item.reasons == ("pick.within 0.1 -> 0.2",)


def test_the_lineage_of_an_interpolated_student_reaches_both_ends(profile):
    pipeline = Pipeline(load(profile))
    (read,) = pipeline.read("student/between")
    found = read_lineage(read.fetch(LINEAGE))
    assert found == lineage_of(pipeline, "student/between")
    node = branches(found)["student/between"]
    assert set(node["made_from"]) == {"student/before", "student/after"}
    assert set(node["outside"]) == {"curve/shapes", "curve/own"}


def test_pretrained_weights_serve_as_student_and_as_start(profile, tmp_path):
    """Pretrained weights serve as a student and as the start of a tuned student."""
    pipeline = Pipeline(load(profile))
    (read,) = pipeline.read("student/before")
    shutil.copy(read.fetch(FILE), profile.parent / "weights" / "released.safetensors")
    model = {**load(profile).students[0].model.model_dump(), "weights": {"path": "weights/released.safetensors"}}
    model.pop("open_clip")

    def change(students, values):
        train = {"steps": 2, "batch": 8, "learning_rate": 1.0e-3}
        values["students"] += [
            {"name": "released", "model": model},
            {"name": "tuned", "model": model, "data": "raw", "train": train},
            {"name": "half", "between": {**students["between"]["between"], "to": "tuned", "weights": [0, 0.5, 1]}},
        ]

    pipeline = edited(profile, change)
    assert pipeline.graph["student/half"].upstream == ["student/tuned"]
    run(pipeline)
    assert same(weights(pipeline, "released"), weights(pipeline, "before"))
    assert stored_results(pipeline, "released") == stored_results(pipeline, "before")
    curve, _ = stored_curve(pipeline, "half")
    assert curve[0] == stored_curve(pipeline)[0][0]
    (read,) = pipeline.read("student/released")
    assert {file.name for file in read.manifest.files} == {"open_clip_config.json", FILE}
    # other weights change everything that starts from them
    released = profile.parent / "weights" / "released.safetensors"
    state = {name: tensor + 0.01 for name, tensor in load_file(released).items()}
    save_file(state, released)
    stale = {item.asset for item in plan(Pipeline(load(profile))).items if item.asset.startswith("student/")}
    assert stale == {"student/released", "student/tuned", "student/half"}


def test_a_killed_run_loses_only_the_current_point(profile, monkeypatch):
    """The process dies at the third point. The next process evaluates the remaining two."""
    expected = Pipeline(load(profile)).read("student/between")[0].manifest
    shutil.rmtree(profile.parent / "store" / "student" / "between")
    assert run_process(die_while_materializing, profile, 3) == -signal.SIGKILL
    measured = []
    evaluate = between.evaluate
    monkeypatch.setattr(between, "evaluate", lambda *args, **kwargs: measured.append(1) or evaluate(*args, **kwargs))
    pipeline = Pipeline(load(profile))
    pipeline.materialize("student/between")
    assert len(measured) == len(WEIGHTS) - 2
    assert pipeline.read("student/between")[0].manifest == expected


def die_while_materializing(profile, point):
    die_at(point)
    Pipeline(load(profile)).materialize("student/between")


def die_at(point):
    evaluate, left = between.evaluate, point

    def counting(*args, **kwargs):
        nonlocal left
        left -= 1
        found = evaluate(*args, **kwargs)
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    between.evaluate = counting


def test_the_ui_and_the_report_show_the_curve(profile):
    pipeline = Pipeline(load(profile))
    rows, picked, picture = between_sheet(pipeline, "between")
    assert len(rows) == 2 * len(WEIGHTS) and picture.sheet.startswith("![interpolated weights](data:image/png;base64,")
    page = render_pipeline(gather(pipeline))
    assert "Interpolated weights" in page and f"picked {picked:g}" in page
    assert f"weight {picked:g} of after" in page


def test_the_curve_is_not_constant(profile):
    """Equal points would make the other tests meaningless."""
    curve, _ = stored_curve(Pipeline(load(profile)))
    assert len({json.dumps(point.metrics, sort_keys=True) for point in curve}) > 2
