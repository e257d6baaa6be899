from __future__ import annotations

from dataclasses import replace

import pytest

from mobileclip2.config.profile import Profile, load
from mobileclip2.evaluation.gate import Comparison, ComparisonRow
from mobileclip2.evaluation.published import MODELS
from mobileclip2.report.comparison import as_markdown, published_like, verdict
from pipelines.profiles import PROFILES

SAME = ComparisonRow("mine", "acc1", 0.5, (0.45, 0.55), 0.5, (-0.01, 0.01), 0.005)
WORSE = ComparisonRow("imagenet1k", "acc1", 0.4, (0.38, 0.42), 0.5, (-0.12, -0.08), 0.005)
SHOWN = ComparisonRow("mine", "acc5", 0.9, (0.85, 0.95))
S0 = MODELS["MobileCLIP2-S0"]


@pytest.fixture(scope="module")
def fine_tune() -> Profile:
    return load(PROFILES / "fine-tune.yaml")


def test_a_table_has_differences_intervals_and_published_values() -> None:
    lines = as_markdown(Comparison([SAME, WORSE, SHOWN], 0.95, 0), "nano", "s0", S0).splitlines()
    assert lines[0] == "### nano against s0"
    assert lines[2:7] == [
        "| set | metric | nano | s0 | difference | published MobileCLIP2-S0 |  |",
        "| --- | --- | --: | --: | --: | --: | --- |",
        "| mine | acc1 | 50.0 [45.0, 55.0] | 50.0 | +0.0 [-1.0, +1.0] | – | ok |",
        "| imagenet1k | acc1 | 40.0 [38.0, 42.0] | 50.0 | -10.0 [-12.0, -8.0] | 71.5 | **worse** |",
        "| mine | acc5 | 90.0 [85.0, 95.0] | – | – | – |  |",
    ]


def test_a_table_without_a_baseline_has_no_verdict() -> None:
    text = as_markdown(Comparison([SHOWN], 0.95, 0), "nano", None, S0)
    assert "| set | metric | nano |\n" in text and "No baseline: the gate was not applied." in text


def test_the_verdict_names_each_failed_metric_with_its_bounds() -> None:
    text = "\n".join(verdict(Comparison([SAME, WORSE, SHOWN], 0.95, 7, ("A note.",)), "s0"))
    assert "**The gate fails.** 1 of 2 metrics fell below their tolerance" in text
    assert "- imagenet1k, acc1: by 8.0 to 12.0 points; the tolerance is 0.5" in text
    assert "seed 7, 95%" in text and text.endswith("A note.")
    assert "**The gate passes.**" in "\n".join(verdict(Comparison([SAME], 0.95, 0), "s0"))


def test_names_cannot_break_the_table() -> None:
    text = as_markdown(Comparison([replace(SHOWN, set="a|b")], 0.95, 0), "nano", None, S0)
    assert "| a&#124;b | acc5 |" in text


def test_the_published_model_has_the_architecture_of_the_origin(fine_tune: Profile) -> None:
    assert published_like(fine_tune, "s0_between") is S0
    assert published_like(fine_tune, "mine") is S0
    (first, *others) = fine_tune.students
    assert first.model is not None
    larger = first.model_copy(update={"model": first.model.model_copy(update={"open_clip": "MobileCLIP2-B"})})
    profile = fine_tune.model_copy(update={"students": (larger, *others)})
    assert published_like(profile, "s0_between") is MODELS["MobileCLIP2-B"]
