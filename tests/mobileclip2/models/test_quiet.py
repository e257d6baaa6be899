from __future__ import annotations

import logging
import warnings

import pytest

from mobileclip2.models.quiet import quiet


def test_warnings_are_silent_and_errors_are_not(caplog: pytest.LogCaptureFixture) -> None:
    with warnings.catch_warnings(record=True) as raised, quiet():
        warnings.warn("a warning", stacklevel=1)
        logging.getLogger("exporter").warning("a warning")
        logging.getLogger("exporter").error("an error")
    assert raised == [] and caplog.messages == ["an error"]


def test_warnings_are_shown_again_after_an_error(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match="broken"), quiet():
        raise ValueError("broken")
    logging.getLogger("exporter").warning("a warning")
    with pytest.warns(UserWarning, match="another"):
        warnings.warn("another", stacklevel=1)
    assert caplog.messages == ["a warning"]
