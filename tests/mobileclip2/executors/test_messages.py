"""A message is unchanged after its way through a worker's output, and other text is not parsed as a message."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobileclip2.executors.messages import (
    MARKER,
    Failure,
    StepReport,
    first_failure,
    format_message,
    parse_message,
    parse_output,
    send,
)
from mobileclip2.progress import Step

texts = st.text(st.characters(codec="utf-8"))
lines = st.text(st.characters(codec="utf-8", exclude_characters="\n"))
steps = st.builds(Step, st.integers(), st.integers(), texts, st.dictionaries(texts, st.floats(allow_nan=False)))
messages = st.one_of(st.builds(StepReport, step=steps), st.builds(Failure, message=texts, permanent=st.booleans()))


@given(messages, lines)
def test_a_message_round_trips_after_any_text(message, before):
    line = before + format_message(message)
    assert "\n" not in format_message(message)
    assert parse_message(line) == (message, before)


@given(st.lists(st.one_of(messages, lines)))
def test_an_output_is_split_into_messages_and_text(entries):
    output = "\n".join(entry if isinstance(entry, str) else format_message(entry) for entry in entries)
    found, printed = parse_output(output)
    assert found == [entry for entry in entries if not isinstance(entry, str)]
    assert printed == [entry for entry in entries if isinstance(entry, str) and entry.strip()]


def test_a_nan_loss_is_preserved():
    message, _ = parse_message(format_message(StepReport(step=Step(1, 2, "steps", {"loss": math.nan}))))
    assert math.isnan(message.step.numbers["loss"])


@pytest.mark.parametrize(
    "line",
    [
        "12/40 steps  loss 2.31",
        MARKER,
        f"{MARKER}12/40 steps",
        f"{MARKER}null",
        f'{MARKER}{{"kind": "failure"}}',
        f'{MARKER}{{"kind": "other", "message": "m", "permanent": true}}',
        f'{MARKER}{{"kind": "failure", "message": "m", "permanent": true}} and more',
        '{"kind": "failure", "message": "m", "permanent": true}',
        f'{MARKER}{{"kind": "step", "step": {{"done": "many", "total": 2, "unit": "steps"}}}}',
    ],
)
def test_other_lines_are_not_messages(line):
    assert parse_message(line) == (None, line)


def test_a_file_name_that_is_not_utf8_is_escaped():
    message, _ = parse_message(format_message(Failure(message="shard-\udcff.tar: too bad", permanent=True)))
    assert message.message == "shard-\\udcff.tar: too bad"


def test_a_false_marker_does_not_hide_a_message():
    message = Failure(message="the disk is full", permanent=False)
    assert parse_message(f"{MARKER}garbage {format_message(message)}") == (message, f"{MARKER}garbage ")


def test_a_permanent_failure_takes_precedence_as_the_cause():
    lost, refused = Failure(message="lost a peer", permanent=False), Failure(message="bad shard", permanent=True)
    assert first_failure([lost, StepReport(step=Step(1, 2, "steps")), refused]) == refused
    assert first_failure([lost]) == lost and first_failure([]) is None


def test_a_message_is_parsed_after_unterminated_output(capfd):
    print("loading", end=" ")
    send(Failure(message="one\ntwo", permanent=True))
    assert parse_output(capfd.readouterr().out) == ([Failure(message="one\ntwo", permanent=True)], ["loading "])
