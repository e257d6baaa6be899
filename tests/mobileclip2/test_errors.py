from __future__ import annotations

import inspect

import pytest

from mobileclip2 import errors
from mobileclip2.errors import DamagedOutput, MissingExtra, StoreError, UserError


@pytest.mark.parametrize("kind", [each for _, each in inspect.getmembers(errors, inspect.isclass)])
def test_the_command_line_prints_every_error_without_a_traceback(kind: type[Exception]) -> None:
    assert issubclass(kind, UserError) and kind.__doc__
    assert str(kind("what is wrong")) == "what is wrong"


def test_a_missing_extra_is_also_an_import_error() -> None:
    assert issubclass(MissingExtra, ImportError)


def test_a_damaged_output_is_a_fault_of_the_store() -> None:
    assert issubclass(DamagedOutput, StoreError)
