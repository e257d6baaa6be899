from __future__ import annotations

from typing import Any

import pytest
from pydantic import Field, ValidationError

from mobileclip2.config.settings import Name, SetName, Settings


class Section(Settings):
    name: Name = "section"
    key: SetName = "set"
    license: str | None = Field(None)
    count: int = 1
    rate: float | None = None
    betas: tuple[float, float] = (0.9, 0.95)
    scales: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    enabled: bool = False
    config: dict[str, Any] = Field(default_factory=dict)


@pytest.mark.parametrize("name", ["image", "text", "Upper", "a/b", "../x", "", "_a", "a-b"])
def test_names_that_cannot_be_paths_are_rejected(name: str) -> None:
    with pytest.raises(ValidationError, match=rf"'{name}' is not a valid name: use lower-case letters"):
        Section(name=name)


def test_names_of_evaluation_sets_can_have_folders() -> None:
    assert Section(key="vtab/flowers-102.v2").key == "vtab/flowers-102.v2"
    for name in ("../x", "a/../b", "/a", ""):
        with pytest.raises(ValidationError, match="is not a valid name of an evaluation set"):
            Section(key=name)


def test_an_unknown_field_is_named() -> None:
    with pytest.raises(ValidationError, match="licens\n"):
        Section.model_validate({"licens": "MIT"})


def test_settings_cannot_be_changed() -> None:
    section = Section()
    with pytest.raises(ValidationError, match="frozen"):
        section.name = "other"


def test_an_old_key_works_with_a_warning_that_names_the_new_one() -> None:
    with pytest.warns(FutureWarning, match="'licence' is deprecated; write 'license'"):
        assert Section.model_validate({"licence": "CC0-1.0"}).license == "CC0-1.0"


def test_an_old_key_together_with_the_new_one_is_an_error() -> None:
    with pytest.raises(ValidationError, match="'licence' is the old name of 'license'; give 'license' alone"):
        Section.model_validate({"licence": "CC0-1.0", "license": "MIT"})


@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize("field", ["count", "rate", "betas", "scales"])
def test_a_boolean_is_not_a_number(field: str, value: bool) -> None:
    given: dict[str, Any] = {"betas": [value, 0.95], "scales": {"a": [1, value]}}
    with pytest.raises(ValidationError, match=rf"{field}\n.*'true' and 'false' are not numbers"):
        Section.model_validate({field: given.get(field, value)})


def test_booleans_and_numeric_strings_are_read() -> None:
    section = Section.model_validate({"count": "3", "rate": "1e-3", "enabled": True, "config": {"bias": [True]}})
    assert (section.count, section.rate, section.enabled, section.config) == (3, 0.001, True, {"bias": [True]})
