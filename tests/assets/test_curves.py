from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from assets.curves import training_metadata
from mobileclip2.engine.pipeline import Pipeline


def test_a_training_shows_its_last_metrics_and_its_curve(
    materialized: Callable[..., Pipeline], png_of: Callable[[object], str], shown_at_once: Callable[[object], bool]
) -> None:
    pipeline = materialized("student/plain")
    entries = training_metadata(pipeline, pipeline.materialize("student/plain"))
    assert entries["step"] == 4 and {"loss", "lr"} <= set(entries)
    assert png_of(entries["loss_curve"]) == "![loss](" and shown_at_once(entries["loss_curve_preview"])
    assert Path(entries["training_log"].path).is_file()


def test_a_training_links_to_the_tensorboard_of_the_profile(materialized: Callable[..., Pipeline]) -> None:
    shared = materialized("student/plain")
    profile = shared.profile.model_copy(update={"tensorboard": "http://127.0.0.1:6006/"})
    pipeline = Pipeline(profile)
    entries = training_metadata(pipeline, pipeline.materialize("student/plain"))
    assert entries["tensorboard"].url == "http://127.0.0.1:6006/"


def test_a_model_without_training_has_no_curve(materialized: Callable[..., Pipeline]) -> None:
    pipeline = materialized("teacher/wide")
    assert training_metadata(pipeline, pipeline.materialize("teacher/wide")) == {}
