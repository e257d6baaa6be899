"""Weights that do not fit their architecture are rejected, and the error lists the choices."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import open_clip
import pytest
from open_clip.factory import get_model_config
from open_clip.pretrained import _PRETRAINED
from pydantic import ValidationError

from mobileclip2.config import published
from mobileclip2.config.model import Model, Weights
from mobileclip2.fingerprint import declared, fingerprint

PAIRS = open_clip.list_pretrained()
UNFIT = [
    (name, tag)
    for name, tag in PAIRS
    if bool(get_model_config(name).get("quick_gelu")) != bool(_PRETRAINED[name][tag].get("quick_gelu"))
]


def refusal(**values):
    with pytest.raises(ValidationError) as caught:
        Model(**values)
    return caught.value.errors()[0]["msg"]


def with_path(name, **values):
    return Model(open_clip=name, weights={"path": "ours.safetensors"}, **values)


def test_tables_match_open_clip_and_do_not_import_torch():
    assert published.open_clip_names() == set(open_clip.list_models())
    for name in open_clip.list_models():
        assert published.architecture(name) == get_model_config(name)
        assert published.pretrained(name) == _PRETRAINED.get(name, {})
    code = (
        "import sys; from mobileclip2.config.model import Model; "
        "Model(open_clip='ViT-B-32-quickgelu', weights={'tag': 'openai'}); "
        "print(sorted({'torch', 'open_clip'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_every_open_clip_pair_fits_or_suggests_a_matching_architecture():
    assert len(UNFIT) == 28
    for name, tag in PAIRS:
        if (name, tag) not in UNFIT:
            assert Model(open_clip=name, weights={"tag": tag}).published == _PRETRAINED[name][tag]
            continue
        message = refusal(open_clip=name, weights={"tag": tag})
        if name == "roberta-ViT-B-32":  # no architecture of open_clip agrees with its tag
            assert "set 'activation' to the one that is right" in message
            for activation in ("gelu", "quick_gelu"):
                Model(open_clip=name, weights={"tag": tag}, activation=activation)
            continue
        assert f"the weights '{tag}' were trained with 'quick_gelu', and {name} has 'gelu'" in message
        assert message.endswith(f"set 'open_clip: {name}-quickgelu'")
        Model(open_clip=f"{name}-quickgelu", weights={"tag": tag})
        Model(open_clip=name, weights={"tag": tag}, activation="quick_gelu")
        assert "remove 'activation'" in refusal(open_clip=name, weights={"tag": tag}, activation="gelu")


def test_an_unknown_tag_lists_the_known_ones():
    message = refusal(open_clip="MobileCLIP2-S0", weights={"tag": "nonsense"})
    assert "open_clip does not have weights 'nonsense' for MobileCLIP2-S0; it has dfndr2b" in message
    assert "it has none" in refusal(open_clip="ViT-M-16", weights={"tag": "openai"})
    assert "'weights.tag' goes with 'open_clip'" in refusal(config={"embed_dim": 8}, weights={"tag": "openai"})


def test_a_weights_file_needs_an_activation_if_tags_differ():
    message = refusal(open_clip="ViT-B-16", weights={"path": "ours.safetensors"})
    assert "'gelu' (laion400m_e31, laion400m_e32" in message and "'quick_gelu' (openai, dfn2b" in message
    for activation in ("gelu", "quick_gelu"):
        assert with_path("ViT-B-16", activation=activation).activation == activation
    # every published weight of RN101 has another activation than the architecture
    assert "'gelu' (none) or 'quick_gelu' (openai, yfcc15m)" in refusal(open_clip="RN101", weights={"path": "a.pt"})
    for name in ("ViT-B-16-quickgelu", "MobileCLIP2-S0", "ViT-B-16-SigLIP", "EVA02-B-16"):
        assert with_path(name).activation is None


def test_activation_is_accepted_only_if_the_model_lacks_one():
    assert "includes its activation" in refusal(open_clip="hf-hub:some/model", activation="gelu")
    config = {"embed_dim": 8, "vision_cfg": {}, "text_cfg": {}}
    assert Model(config=config, activation="quick_gelu").activation == "quick_gelu"
    assert "remove 'activation'" in refusal(config={**config, "quick_gelu": True}, activation="quick_gelu")


def test_an_activation_is_declared_only_if_it_is_set():
    assert "activation" not in declared(with_path("MobileCLIP2-S0"))
    assert declared(with_path("ViT-B-16", activation="gelu"))["activation"] == "gelu"


LAION = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "interpolation": "bicubic"}


def test_a_weights_file_needs_preprocess_if_tags_differ():
    differ = set()
    for name in open_clip.list_models():
        tags = published.pretrained(name).values()
        if len({tuple(trained[field] for field in published.CONVENTIONS) for trained in tags}) > 1:
            differ.add(name)
            message = refusal(open_clip=name, weights={"path": "a.pt"}, activation="gelu")
            assert ("take differently prepared images" in message and "squash" in message) or "0.5, 0.5" in message
        else:
            assert with_path(name, activation="gelu").preprocess is None
    assert differ == {"ViT-L-14", "ViT-H-14", "ViT-H-14-quickgelu"}
    message = refusal(open_clip="ViT-L-14", weights={"path": "a.pt"}, activation="gelu")
    assert (
        "{mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5], interpolation: bicubic, resize_mode: shortest} (laion2b_s32b_b82k)"
        in message
    )
    assert with_path("ViT-L-14", activation="gelu", preprocess=LAION).preprocess.mean == (0.5, 0.5, 0.5)


def test_preprocess_is_accepted_only_if_the_weights_lack_one():
    assert "includes its preprocess; remove it" in refusal(open_clip="hf-hub:some/model", preprocess=LAION)
    message = refusal(open_clip="MobileCLIP2-S0", weights={"tag": "dfndr2b"}, preprocess=LAION)
    assert "the weights 'dfndr2b' include their 'preprocess'" in message
    assert "greater than 0" in refusal(config={"embed_dim": 8}, preprocess={**LAION, "std": (0, 1, 1)})
    assert "preprocess" not in declared(with_path("MobileCLIP2-S0"))
    assert declared(with_path("MobileCLIP2-S0", preprocess=LAION))["preprocess"]["std"] == [0.5, 0.5, 0.5]


SHA256 = "0" * 64


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "name exactly one of 'open_clip' and 'config'"),
        ({"open_clip": "ViT-B-16", "config": {}}, "name exactly one of 'open_clip' and 'config'"),
        ({"open_clip": "ViT-Z-99"}, "open_clip has no model 'ViT-Z-99'"),
        ({"open_clip": "ViT-B16"}, "did you mean 'ViT-B-16'"),
        ({"open_clip": "hf-hub:a/b", "weights": {"tag": "t"}}, "an 'hf-hub:' model includes its weights"),
        ({"open_clip": ""}, r"open_clip\n.*at least 1 character"),
        ({"config": {"text_cfg": 5}}, "'config.text_cfg' must be a mapping"),
        ({"config": {"text_cfg": {"hf_tokenizer_name": 5}}}, "'config.text_cfg.hf_tokenizer_name' must be a string"),
        ({"config": {"text_cfg": {"hf_model_name": ["a"]}}}, "'config.text_cfg.hf_model_name' must be a string"),
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
        ({"tag": ""}, r"tag\n.*at least 1 character"),
        ({"package": "", "file": "x.pth", "sha256": SHA256}, r"package\n.*at least 1 character"),
    ],
)
def test_weights_have_one_origin_and_packages_are_pinned(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Weights.model_validate(fields)


def test_moved_weights_keep_their_fingerprint() -> None:
    assert "path" not in declared(Weights(path="a"))
    assert fingerprint(Weights(path="a")) == fingerprint(Weights(path="b")) != fingerprint(Weights(tag="a"))


def test_models_with_weights_are_pretrained() -> None:
    assert Model(open_clip="ViT-B-16", weights=Weights(tag="datacomp_xl_s13b_b90k")).pretrained
    assert Model(open_clip="hf-hub:a/b").pretrained
    assert not Model(open_clip="ViT-B-16").pretrained
