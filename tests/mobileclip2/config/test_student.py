from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from mobileclip2.config.student import Loss, Pick, Student, WiseFT

TRAIN = {"steps": 4, "batch": 8, "learning_rate": 1e-3}
MODEL = {"open_clip": "MobileCLIP2-S0"}
PRETRAINED = {**MODEL, "weights": {"tag": "dfndr2b"}}
PICK = {"best": "own", "of": ["general"]}


def wise_ft(**fields: Any) -> WiseFT:
    return WiseFT.model_validate({"to": "tuned", "pick": PICK, **fields})


def test_a_curve_has_eleven_points_by_default() -> None:
    assert wise_ft().weights == (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)
    assert wise_ft().pick.within == 0.01


@pytest.mark.parametrize("weights", [[0, 0.5], [0.5, 1], [0, 0.6, 0.4, 1], [0, 0, 1], []])
def test_a_curve_without_its_ends_or_out_of_order_is_rejected(weights: list[float]) -> None:
    with pytest.raises(ValidationError, match="must rise from 0, the start, to 1, the end"):
        wise_ft(weights=weights)


def test_a_weight_above_1_is_rejected() -> None:
    with pytest.raises(ValidationError, match=r"weights\.2"):
        wise_ft(weights=[0, 1, 1.5])


def test_a_pick_rule_without_sets_is_rejected() -> None:
    with pytest.raises(ValidationError, match=r"pick\.of"):
        wise_ft(pick={"best": "own", "of": []})


def test_the_sets_of_a_rule_have_no_duplicates() -> None:
    assert Pick(best="own", of=("general", "own")).sets == ("own", "general")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"train": TRAIN}, "student 's': name exactly one of 'base', 'model' and 'between'"),
        ({"base": "b", "model": MODEL, "train": TRAIN}, "student 's': name exactly one of"),
        ({"base": "", "train": TRAIN}, r"base\n.*at least 1 character"),
        ({"base": "b"}, "student 's': 'train' is missing; only a model with weights can go without it"),
        ({"model": MODEL}, "student 's': 'train' is missing; only a model with weights can go without it"),
        ({"model": PRETRAINED, "evaluate_on": ["own"]}, "student 's' is not trained; remove evaluate_on"),
        (
            {"between": {"to": "t", "pick": PICK}, "data": "raw", "train": TRAIN},
            "student 's' is not trained; remove data, train",
        ),
        (
            {"model": MODEL, "train": TRAIN, "augmentation": "views"},
            "student 's': a distilled student sees the stored views; remove 'augmentation'",
        ),
        (
            {"model": MODEL, "train": TRAIN, "corpora": ["clean"]},
            "student 's': 'corpora' needs 'data: raw'; remove 'corpora'",
        ),
        ({"model": PRETRAINED, "augmentation": "views"}, "student 's' is not trained; remove augmentation"),
        (
            {"model": MODEL, "train": TRAIN, "data": "raw", "loss": {"distill": 0.5}},
            "student 's': 'loss' needs 'data: reinforced'; remove 'loss'",
        ),
    ],
)
def test_contradictory_settings_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Student.model_validate({"name": "s", **fields})


def test_a_pretrained_student_needs_no_training() -> None:
    assert Student.model_validate({"name": "s", "model": PRETRAINED}).train is None


def test_a_null_logit_scale_excludes_a_teacher() -> None:
    assert Loss.model_validate({"logit_scales": {"wide": None, "narrow": 30}}).logit_scales == {
        "wide": None,
        "narrow": 30,
    }
    with pytest.raises(ValidationError, match="logit_scales"):
        Loss(logit_scales={"wide": 0})
