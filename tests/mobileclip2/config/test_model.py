from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from mobileclip2.config.model import Model, Weights, open_clip_names
from mobileclip2.fingerprint import declared, fingerprint

SHA256 = "0" * 64


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "name exactly one of 'open_clip' and 'config'"),
        ({"open_clip": "ViT-B-16", "config": {}}, "name exactly one of 'open_clip' and 'config'"),
        ({"open_clip": "ViT-Z-99"}, "open_clip has no model 'ViT-Z-99'"),
        ({"open_clip": "ViT-B16"}, "did you mean 'ViT-B-16'"),
        ({"open_clip": "hf-hub:a/b", "weights": {"tag": "t"}}, "an 'hf-hub:' model includes its weights"),
    ],
)
def test_a_model_has_one_known_architecture(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Model.model_validate(fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "name exactly one of 'package'"),
        ({"path": "a", "tag": "b"}, "name exactly one of 'package'"),
        ({"package": "p", "sha256": SHA256}, "give 'package' and 'file' together"),
        ({"path": "a", "file": "b"}, "give 'package' and 'file' together"),
        ({"package": "p", "file": "x.pth"}, "pin them with 'sha256'"),
        ({"path": "a", "sha256": "0123"}, "sha256"),
    ],
)
def test_weights_have_one_origin_and_packages_are_pinned(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Weights.model_validate(fields)


def test_moved_weights_keep_their_fingerprint() -> None:
    assert "path" not in declared(Weights(path="a"))
    assert fingerprint(Weights(path="a")) == fingerprint(Weights(path="b")) != fingerprint(Weights(tag="a"))


def test_models_with_weights_are_pretrained() -> None:
    assert Model(open_clip="ViT-B-16", weights=Weights(tag="openai")).pretrained
    assert Model(open_clip="hf-hub:a/b").pretrained
    assert not Model(open_clip="ViT-B-16").pretrained


def test_the_names_are_those_of_open_clip() -> None:
    import open_clip

    assert open_clip_names() == set(open_clip.list_models())
