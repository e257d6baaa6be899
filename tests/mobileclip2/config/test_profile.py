from pathlib import Path

import pytest
import yaml

from mobileclip2.config.profile import load, parse
from mobileclip2.errors import ProfileError

PROFILES = Path(__file__).parents[3] / "pipelines" / "profiles"


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


def test_unknown_teacher_name(tiny):
    tiny["dataset"] = {"teachers": ["wide", "nobody"]}
    assert "dataset.teachers: there is no 'nobody'; the profile has wide, narrow" in refused(tiny)


def test_two_teachers_with_one_name(tiny):
    tiny["teachers"][1]["name"] = "wide"
    assert "teachers: the name 'wide' is used twice" in refused(tiny)


def test_a_missing_logit_scale_is_rejected(tiny):
    del tiny["teachers"][1]["logit_scale"]
    assert "teachers.narrow.logit_scale is missing" in refused(tiny)


def test_more_than_99_groups_are_rejected(tiny):
    tiny["groups"] = 100
    assert "groups: 100 is more than 99" in refused(tiny)


def test_an_unknown_captioner_in_a_loss_is_rejected(tiny):
    tiny["students"][0]["loss"] = {"captioners": ["third"]}
    assert "students.pupil.loss.captioners: there is no 'third'" in refused(tiny)


def test_every_problem_is_listed_at_once(tiny):
    tiny["groups"] = 0
    tiny["views"]["count"] = 0
    message = refused(tiny)
    assert "groups:" in message and "views.count:" in message


def test_invalid_yaml_is_rejected():
    with pytest.raises(ProfileError, match="not YAML"):
        parse("a: [", origin=Path("x.yaml"))


def test_a_missing_file(tmp_path):
    with pytest.raises(ProfileError, match="cannot read the profile"):
        load(tmp_path / "none.yaml")


def test_paths_are_relative_to_the_profile(tiny):
    profile = parse(yaml.safe_dump(tiny), origin=Path("/data/profiles/tiny.yaml"))
    assert profile.locate("../shards") == "/data/shards"
    assert profile.locate("s3://bucket/shards") == "s3://bucket/shards"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"device": "gpu"}, "device: torch has no device 'gpu'; write 'auto', 'cpu'"),
        ({"device": "cuda:x"}, "device: torch has no device 'cuda:x'"),
        ({"rates": {"student": -1}}, "rates.student: Input should be greater than 0"),
        ({"rates": {"studnet": 3}}, "rates: there is no 'studnet'; did you mean 'student'"),
        ({"rates": {"student/pupli": 3}}, "rates.student: there is no 'pupli'; did you mean 'pupil'"),
        ({"groups": True}, "groups: 'yes', 'no', 'on', 'off', 'true' and 'false' are not numbers"),
    ],
)
def test_invalid_devices_rates_and_groups_are_rejected(tiny, fields, message):
    assert message in refused({**tiny, **fields})


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:12", "mps"])
def test_valid_devices_and_rates_are_accepted(tiny, device):
    rates = {"student": 1, "teacher_embeddings/wide/image": 2.5, "evaluation/pupil": 3}
    assert reading({**tiny, "device": device, "rates": rates}).rates == rates


def test_environment_values_are_redacted_in_merges_and_aliases(tiny):
    text = """
compute:
  <<: {kubernetes: {image: x, env: {A: hunter2-a}}}
  kubernetes:
    image: x
    <<: [{env: {B: hunter2-b}}]
    env: {C: &c hunter2-c, D: *c}
    stages:
      student: &stage
        pod_template: {spec: {containers: [{name: work, env: [{name: E, value: hunter2-e}, {name: F, value: }]}]}}
      teacher:
        <<: *stage
        pods: 1
"""
    profile = parse(yaml.safe_dump(tiny) + text, origin=Path("x.yaml"))
    assert profile.compute.kubernetes.env == {"C": "hunter2-c", "D": "hunter2-c"}
    assert "hunter2" not in profile.public_text
    hidden = parse(profile.public_text, origin=Path("x.yaml")).compute.kubernetes
    assert hidden.env == {"C": "***", "D": "***"}
    assert hidden.template("teacher")["spec"]["containers"][0]["env"][0] == {"name": "E", "value": "***"}


def between(tiny: dict, **changed) -> dict:
    """Add a fine-tuned student and a WiSE-FT student to the profile."""
    tiny["students"].append({"name": "tuned", "base": "pupil", "train": tiny["students"][0]["train"]})
    rule = {"to": "tuned", "pick": {"best": "shapes", "of": ["shapes"]}}
    tiny["students"].append({"name": "middle", "between": {**rule, **changed}})
    return tiny


def test_an_unknown_or_later_student_is_rejected(tiny):
    assert "students.middle.between.to: there is no 'nobody'" in refused(between(tiny, to="nobody"))
    tiny["students"][-1]["between"]["to"] = "tuned"
    tiny["students"].insert(0, tiny["students"].pop())
    assert "students.middle.between.to: there is no 'tuned'; the profile has none" in refused(tiny)


@pytest.mark.parametrize("pick", [{"best": "nowhere", "of": ["shapes"]}, {"best": "shapes", "of": ["nowhere"]}])
def test_a_pick_rule_with_an_unknown_set_is_rejected(tiny, pick):
    assert "students.middle.between.pick: there is no 'nowhere'; the profile has shapes" in refused(
        between(tiny, pick=pick)
    )


def test_a_pick_rule_needs_sets_with_a_main_metric(tiny):
    tiny["evaluation"].append({"name": "fairness/utkface", "url": "faces"})
    pick = {"best": "shapes", "of": ["fairness/utkface"]}
    assert "'fairness/utkface' has no main metric; name another set" in refused(between(tiny, pick=pick))


def test_wise_ft_of_a_student_from_scratch_is_rejected(tiny):
    assert "students.middle.between.to: 'pupil' was not trained from given weights" in refused(
        between(tiny, to="pupil")
    )


def test_wise_ft_of_an_untrained_student_is_rejected(tiny):
    tiny["students"].append({"name": "given", "model": tiny["teachers"][0]["model"]})
    assert "'given' was not trained from given weights" in refused(between(tiny, to="given"))


def test_a_study_of_an_untrained_student_is_rejected(tiny):
    between(tiny)["studies"] = [{"name": "s", "student": "middle", "evaluate_on": ["shapes"], "rows": [{"name": "a"}]}]
    assert "studies.s.student: 'middle' is not trained; name a student with 'train'" in refused(tiny)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"student": "nobody"}, "studies.s.student: there is no 'nobody'"),
        ({"evaluate_on": ["else"]}, "studies.s.a-seed0.evaluate_on: there is no 'else'"),
        ({"rows": [{"name": "a", "loss": {"logit_scales": {"who": 3}}}]}, "loss.logit_scales: there is no 'who'"),
        (
            {"rows": [{"name": "a", "loss": {"logit_scales": {"wide": None, "narrow": None}}}]},
            "every teacher is excluded",
        ),
        ({"rows": [], "scales": {"who": [3]}}, "studies.s.scales: there is no 'who'"),
    ],
)
def test_a_study_with_unknown_names_is_rejected(tiny, fields, message):
    study = {"name": "s", "student": "pupil", "evaluate_on": ["shapes"], "rows": [{"name": "a"}], **fields}
    assert message in refused({**tiny, "studies": [study]})
