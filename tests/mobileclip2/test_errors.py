from __future__ import annotations

import inspect

import pytest

from mobileclip2 import errors
from mobileclip2.errors import DamagedOutput, MissingExtra, ShardError, StoreError, UserError


@pytest.mark.parametrize("kind", [each for _, each in inspect.getmembers(errors, inspect.isclass)])
def test_every_error_is_a_described_user_error(kind: type[Exception]) -> None:
    assert issubclass(kind, UserError) and kind.__doc__
    assert str(kind("what is wrong")) == "what is wrong"


def test_a_missing_extra_is_also_an_import_error() -> None:
    assert issubclass(MissingExtra, ImportError)


def test_a_damaged_output_is_a_store_error() -> None:
    assert issubclass(DamagedOutput, StoreError)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:hunter2@host/x: gone", "https://…@host/x: gone"),
        ("https:/me:hunter2@host/x: gone", "https:/…@host/x: gone"),
        ("'https://me:hun/ter2@host/x'", "'https://…@host/x'"),
        ("https://me:hunt@er2@host/x", "https://…@host/x"),
        ("https://me:hu/nt@er2@host/x", "https://…@host/x"),
        ("https://hunt@er2@host/me@home", "https://…@host/me@home"),
        ("s3://hunter2@bucket/x", "s3://…@bucket/x"),
        ("s3://bucket/x?X-Amz-Signature=hunter2: gone", "s3://bucket/x?… gone"),
        ("'https://host/x?token=hunter2&v=1' is gone", "'https://host/x?…' is gone"),
        ("'https://host/it's.jpg?name='x'&token=hunter2' is gone", "'https://host/it's.jpg?…' is gone"),
        ("s3://bucket/me@home/x", "s3://bucket/me@home/x"),
        ("/data/a:b@c?x=1", "/data/a:b@c?x=1"),
        ("see https://host/page?", "see https://host/page?"),
    ],
)
def test_a_message_does_not_repeat_the_password_of_a_url(text: str, shown: str) -> None:
    assert str(ShardError(text)) == shown
