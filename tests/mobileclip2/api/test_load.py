from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mobileclip2.api.load import create, load, load_from_pipeline
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.errors import UserError


def test_a_folder_of_a_stored_model_is_loaded(folder: Path) -> None:
    model = load(folder)
    assert model.name == folder.name


def test_a_model_of_a_pipeline_has_a_short_name(materialized: Callable[..., Pipeline]) -> None:
    pipeline = materialized("teacher/narrow")
    assert load_from_pipeline(pipeline, "narrow").name == "teacher/narrow"
    with pytest.raises(
        UserError, match=r"there is no model 'narow'; did you mean 'teacher/narrow'\? \(profile .*tiny\.yaml\)"
    ):
        load_from_pipeline(pipeline, "narow")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "nothing: neither a folder nor 'architecture:tag' nor 'hf-hub:...'"),
        ("ViT-B16:openai", "ViT-B16:openai: open_clip has no model 'ViT-B16'; did you mean 'ViT-B-16'"),
        ("x" * 300, "xxx: neither a folder nor"),
        ("empty", r"empty: no stored model; the folder must hold open_clip_config\.json"),
    ],
)
def test_load_errors_say_what_was_tried(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MOBILECLIP2_PROFILE", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        load(name)


@pytest.mark.parametrize("architecture", [["ViT-B-32"], 5, {"embed_dim": 16}])
def test_an_invalid_configuration_is_a_user_error(architecture: Any) -> None:
    with pytest.raises(UserError, match=r"^model: "):
        create(architecture)
