"""A trained student records how its views were rendered."""

import json

import open_clip
import pytest
import yaml

from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.models.build import CONFIG, WEIGHTS
from mobileclip2.stages.load_model import VIEWS, load_image_text


@pytest.mark.parametrize(
    ("render", "recorded"),
    [
        ({}, {"size": 32, "interpolation": "bicubic", "translation": "pixels"}),
        ({"translation": "scaled"}, {"size": 32, "interpolation": "bicubic", "translation": "scaled"}),
        ({"interpolation": "model", "translation": "scaled"}, None),  # as it was before the setting
    ],
)
def test_a_stored_student_says_how_its_views_were_rendered(tiny, tmp_path, render, recorded):
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
    assert load_image_text(stored, pipeline.contents).config.get(VIEWS) == recorded
    for name in (CONFIG, WEIGHTS):
        (tmp_path / name).write_bytes(stored.fetch(name).read_bytes())
    assert open_clip.create_model(f"local-dir:{tmp_path}").visual.image_size == (32, 32)
