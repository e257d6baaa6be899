import pytest

from mobileclip2.config.training import TrainSettings
from mobileclip2.training.schedule import learning_rate


def test_warm_up_is_linear_and_the_cosine_ends_at_its_floor() -> None:
    settings = TrainSettings(steps=110, batch=8, learning_rate=1e-3, final_learning_rate=1e-4, warmup=10)
    assert learning_rate(0, settings) == pytest.approx(1e-4)
    assert learning_rate(4, settings) == pytest.approx(5e-4)
    assert learning_rate(9, settings) == pytest.approx(1e-3)
    assert learning_rate(10, settings) == pytest.approx(1e-3)
    assert learning_rate(60, settings) == pytest.approx(5.5e-4)
    assert learning_rate(110, settings) == pytest.approx(1e-4)


def test_no_warm_up_starts_at_the_peak() -> None:
    settings = TrainSettings(steps=10, batch=8, learning_rate=1e-3)
    assert learning_rate(0, settings) == 1e-3
    assert 0 < learning_rate(9, settings) < 1e-4


def test_warm_up_can_take_all_steps() -> None:
    settings = TrainSettings(steps=10, batch=8, learning_rate=1e-3, warmup=10)
    assert learning_rate(9, settings) == pytest.approx(1e-3)
