from __future__ import annotations

import pytest
from pydantic import ValidationError

from mobileclip2.config.sources import Corpus, EvaluationSource, Source
from mobileclip2.fingerprint import declared


def test_a_moved_source_keeps_its_fingerprint() -> None:
    assert declared(Source(url="a", license="MIT")) == declared(Source(url="s3://b/c")) != {}
    assert declared(Corpus(name="c", url="a")) == declared(Corpus(name="c", url="b"))
    assert declared(EvaluationSource(name="vtab/pets", url="a")) == {"name": "vtab/pets"}


def test_the_pattern_decides_which_tars_are_read() -> None:
    assert Source(url="a").pattern == "**/*.tar"
    assert declared(Source(url="a", pattern="1*.tar")) != declared(Source(url="a"))


@pytest.mark.parametrize("pattern", ["[z-a].tar", "!", ["*.tar", "a\\"]])
def test_an_invalid_pattern_is_rejected(pattern: str | list[str]) -> None:
    with pytest.raises(ValidationError, match="is not a gitignore pattern"):
        Source.model_validate({"url": "a", "pattern": pattern})


def test_an_evaluation_set_has_a_name_and_a_url() -> None:
    with pytest.raises(ValidationError, match=r"(?s)name.*url"):
        EvaluationSource.model_validate({})
