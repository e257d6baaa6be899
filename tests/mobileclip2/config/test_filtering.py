"""Errors of the sections ``filtering`` and ``select`` name the field."""

import pytest
import yaml

from mobileclip2.config.profile import load
from mobileclip2.errors import ProfileError
from tests.filtered import make_filtered, set_selection


@pytest.mark.parametrize(
    ("select", "message"),
    [
        ({}, "exactly one of 'keep'"),
        ({"keep": 0.3, "above": 0.2}, "exactly one of 'keep'"),
        ({"keep": 0}, "select.keep"),
        ({"keep": 30}, "select.keep"),
        ({"keep": 0.3, "by": "clan"}, "select.by: there is no 'clan'"),
        ({"keep": 0.3, "decontaminate": ["shape"]}, "select.decontaminate: there is no 'shape'"),
    ],
)
def test_a_wrong_selection_is_refused(tmp_path, select, message):
    profile = make_filtered(tmp_path, keep=0.5)
    with pytest.raises(ProfileError, match=message):
        load(set_selection(profile, **select))


@pytest.mark.parametrize(
    ("model", "message"),
    [("teacher/wid", "there is no 'teacher/wid'"), ("student/plain", "trains on the pairs that it would select")],
)
def test_a_wrong_model_is_refused(tmp_path, model, message):
    profile = make_filtered(tmp_path, keep=0.5)
    values = yaml.safe_load(profile.read_text())
    values["filtering"][0]["model"] = model
    profile.write_text(yaml.safe_dump(values))
    with pytest.raises(ProfileError, match=message):
        load(profile)
