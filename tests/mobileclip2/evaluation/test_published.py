from __future__ import annotations

import open_clip
import pytest

from mobileclip2.config.evaluation_tasks import AVERAGES, TASKS
from mobileclip2.evaluation.published import MODELS, NUMBERS


def test_every_model_is_an_architecture_of_open_clip() -> None:
    assert set(MODELS) <= set(open_clip.list_models())


def test_every_number_has_a_set_or_an_average() -> None:
    assert all(name in TASKS or name in AVERAGES for name, _ in NUMBERS)


def test_shares_are_fractions_by_set_and_metric() -> None:
    shares = MODELS["MobileCLIP2-S0"].shares
    assert list(shares) == list(NUMBERS)
    assert shares["imagenet1k", "acc1"] == pytest.approx(0.715)
    assert shares["average", "main_metric"] == pytest.approx(0.597)
    assert all(0 < share < 1 for model in MODELS.values() for share in model.shares.values())
