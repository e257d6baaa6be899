from __future__ import annotations

import pytest
from pydantic import ValidationError

from mobileclip2.config.dataset import Dataset, Views
from mobileclip2.fingerprint import fingerprint


@pytest.mark.parametrize("count", [0, 100])
def test_an_image_has_1_to_99_views(count: int) -> None:
    with pytest.raises(ValidationError, match="count"):
        Views(count=count)


def test_the_dataset_is_stored_in_a_published_format() -> None:
    assert Dataset().storage == "pth.gz"
    with pytest.raises(ValidationError, match="storage"):
        Dataset.model_validate({"storage": "pickle"})


def test_every_field_changes_the_fingerprint() -> None:
    changed = [Dataset(teachers=("a",)), Dataset(captioners=()), Dataset(storage="npz"), Dataset(images=False)]
    assert len({fingerprint(dataset) for dataset in [Dataset(), *changed]}) == 5


@pytest.mark.parametrize("field", ["teachers", "captioners"])
def test_a_duplicate_name_is_rejected(field: str) -> None:
    with pytest.raises(ValidationError, match=f"{field} must be unique"):
        Dataset.model_validate({field: ["a", "a"]})
