from __future__ import annotations

import signal

import pytest

from mobileclip2.signals import DEATHS, death, signal_name


@pytest.mark.parametrize("number", list(DEATHS))
def test_a_death_message_has_an_explanation_and_a_remedy(number: signal.Signals) -> None:
    message = death(int(number))
    explanation, remedy = DEATHS[number]
    assert message == f"{number.name}: {explanation}; finished shards are kept; {remedy}"
    assert "run again" in remedy


def test_a_kill_is_explained_by_lack_of_memory() -> None:
    assert "lack of memory" in death(signal.SIGKILL) and "lower 'batch'" in death(signal.SIGKILL)


def test_other_signals_come_from_other_processes() -> None:
    assert death(signal.SIGTERM) == "SIGTERM: another process ended it; finished shards are kept; run again"


def test_real_time_signals_have_a_number() -> None:
    assert signal_name(signal.SIGRTMIN + 1) == f"signal {signal.SIGRTMIN + 1}"
