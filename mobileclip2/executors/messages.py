"""Messages from a worker process to its run: lines of JSON in the worker's output.

Kubernetes passes on nothing but the log of a pod, so the output is the channel everywhere. Libraries print to the same output.
A message therefore starts with a marker, and every other line is kept as it is.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Annotated, Literal

from pydantic import BaseModel, Field, TypeAdapter, ValidationError, field_validator

from mobileclip2.progress import Step

MARKER = "::mobileclip2:: "

PERMANENT = 65
"""exit status of a worker after a permanent failure, for the failure policy of a Job"""


class _Message(BaseModel, frozen=True, extra="forbid", ser_json_inf_nan="constants"):
    """A loss can be infinite, which ``ser_json_inf_nan`` writes as a constant."""


class StepReport(_Message):
    """The progress of a worker."""

    kind: Literal["step"] = "step"
    step: Step


class Failure(_Message):
    """The error that ended a worker."""

    kind: Literal["failure"] = "failure"
    message: str
    permanent: bool
    """whether another attempt fails in the same way"""

    @field_validator("message", mode="before")
    @classmethod
    def _escape_surrogates(cls, message: object) -> object:
        """Escape the bytes of a file name that is not UTF-8, which JSON cannot represent."""
        return message.encode(errors="backslashreplace").decode() if isinstance(message, str) else message


Message = StepReport | Failure

_MESSAGE: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="kind")])


def send(message: Message) -> None:
    """Write a message to stdout."""
    sys.stdout.flush()
    # one call, because the ranks of a training share their stdout
    os.write(sys.stdout.fileno(), f"{format_message(message)}\n".encode())


def format_message(message: Message) -> str:
    """Return a message as a line without its end."""
    return f"{MARKER}{message.model_dump_json()}"


def parse_message(line: str) -> tuple[Message | None, str]:
    """Split a line into the message at its end, if there is one, and the text before it.

    A library may print text without a line end before the message.
    """
    start = line.find(MARKER)
    while start >= 0:
        with suppress(ValidationError):
            return _MESSAGE.validate_json(line[start + len(MARKER) :]), line[:start]
        start = line.find(MARKER, start + 1)
    return None, line


def parse_output(output: str) -> tuple[list[Message], list[str]]:
    """Return the messages in the output of a worker, and the other lines."""
    # not splitlines(), which also splits at characters that JSON does not escape
    parsed = [parse_message(line) for line in output.split("\n")]
    return [message for message, _ in parsed if message], [text for _, text in parsed if text.strip()]


def first_failure(messages: Iterable[Message]) -> Failure | None:
    """Return the first permanent failure, else the first failure, else None."""
    failures = [message for message in messages if isinstance(message, Failure)]
    return next((failure for failure in failures if failure.permanent), failures[0] if failures else None)
