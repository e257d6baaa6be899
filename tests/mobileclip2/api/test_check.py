"""A check lists every problem of a profile."""

from __future__ import annotations

import shutil

import pytest
import yaml

from mobileclip2.api.check import check
from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline


def checked(profile, change=lambda values: None):
    values = yaml.safe_load(profile.read_text())
    change(values)
    profile.write_text(yaml.safe_dump(values, sort_keys=False))
    return check(Pipeline(load(profile)))


def test_a_valid_profile_has_no_problems(tiny):
    found = checked(tiny)
    assert found.problems == []
    assert [source.samples for source in found.sources] == [24] and found.corpora["clean"].samples == 12
    assert found.sets["shapes"].classes == 12
    assert set(found.models) == {f"captioner/{name}" for name in ("first", "second")} | {
        f"teacher/{name}" for name in ("wide", "narrow")
    } | {f"student/{name}" for name in ("pupil", "plain")}
    assert found.models["captioner/second"] == found.models["captioner/first"]
    assert not (tiny.parent / "store").exists()


def test_every_problem_is_listed_once(tiny):
    shutil.rmtree(tiny.parent / "shards")
    (tiny.parent / "corpus" / "00000.tar").write_bytes(b"no tar")
    (tiny.parent / "evaluation" / "shapes" / "classnames.txt").unlink()
    (tiny.parent / "weights" / "wide.safetensors").unlink()

    def change(values):
        del values["teachers"][1]["model"]["config"]["text_cfg"]
        values["students"][0]["model"]["config"]["vision_cfg"] = {"timm_model_name": "nothing"}
        values["teachers"][0]["model"]["weights"]["sha256"] = "0" * 64

    problems = checked(tiny, change).problems
    assert [problem.split(":")[0] for problem in problems] == [
        "source 'made'",
        "caption corpus 'clean'",
        "evaluation set 'shapes'",
        "weights",
        "teachers.narrow.model",
        "students.pupil.model",
        "students.plain.model",
    ]


def test_a_pinned_file_with_another_hash_is_reported(tiny):
    def change(values):
        values["teachers"][0]["model"]["weights"]["sha256"] = "0" * 64

    (problem,) = checked(tiny, change).problems
    assert "wide.safetensors has sha256" in problem and "use the pinned file" in problem


@pytest.mark.parametrize("between", [False, True])
def test_a_student_based_on_another_has_the_same_size(tiny, between):
    def change(values):
        train = values["students"][0]["train"]
        values["students"].append({"name": "tuned", "base": "pupil", "data": "raw", "train": train})
        if between:
            pick = {"best": "shapes", "of": ["shapes"]}
            values["students"].append({"name": "middle", "between": {"to": "tuned", "pick": pick}})

    found = checked(tiny, change)
    assert found.problems == []
    assert found.models["student/middle" if between else "student/tuned"] == found.models["student/pupil"]
