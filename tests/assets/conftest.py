from __future__ import annotations

from collections.abc import Callable

import dagster as dg
import pytest

from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline
from pipelines.profiles import PROFILES


@pytest.fixture(scope="session")
def demo() -> Pipeline:
    """Return the pipeline of the demo profile, which has each kind of asset. No asset is materialized."""
    return Pipeline(load(PROFILES / "demo.yaml"))


@pytest.fixture(scope="session")
def png_of() -> Callable[[object], str]:
    """Return a function that checks that Markdown metadata has a PNG, and returns the text before it."""

    def check(value: object) -> str:
        assert isinstance(value, dg.MarkdownMetadataValue)
        before, _, _ = value.value.partition("data:image/png;base64,")
        assert before != value.value, "there is no picture"
        return before

    return check


@pytest.fixture(scope="session")
def shown_at_once() -> Callable[[object], bool]:
    """Return a function that checks whether Dagster shows a picture without a click.

    Dagster does this for Markdown of less than 1000 characters.
    """

    def check(value: object) -> bool:
        assert isinstance(value, dg.MarkdownMetadataValue)
        return "](data:image/" in value.value and len(value.value) < 1000

    return check
