"""Models are built at full size without memory for weights, and configurations that do not fit are reported."""

from __future__ import annotations

import pytest
import torch

from mobileclip2.api.check_models import size_captioner, size_locked, size_model
from mobileclip2.config.captioner import Captioner
from mobileclip2.config.model import Model
from mobileclip2.config.profile import load
from mobileclip2.config.training import TrainSettings
from mobileclip2.errors import UserError
from mobileclip2.models.build import build
from pipelines.profiles import PROFILES

TRAIN = TrainSettings(steps=1, batch=8, learning_rate=1e-3)


def config(**changes):
    text = {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    vision = {"image_size": 32, "patch_size": 16, "width": 16, "layers": 1, "head_width": 8}
    given = {"embed_dim": 16, "custom_text": True, "vision_cfg": vision, "text_cfg": text}
    return {name: value for name, value in {**given, **changes}.items() if value is not None}


def test_counts_match_the_built_model():
    sized = size_model("students.a.model", Model(config=config()), {}, TRAIN)
    built = build(Model(config=config())).model
    assert sized.parameters == sum(each.numel() for each in built.parameters())
    assert sized.image_parameters == sum(each.numel() for each in built.visual.parameters())
    assert (sized.size, sized.embed_dim, sized.context) == (32, 16, 12)
    assert sized.image_flops > 0 and sized.text_flops > 0 and sized.activations > 0
    assert sized.training_bytes(TRAIN) == sized.parameters * 16 + sized.activations * 8


def test_a_published_architecture_takes_no_memory():
    large = size_model("students.a.model", Model(open_clip="ViT-H-14"), {}, None)
    assert large.parameters > 900e6 and large.embed_dim == 1024
    assert torch.cuda.is_available() or large.image_flops > 300e9


def test_checkpointing_and_bf16_need_less_memory():
    plain = size_model("x", Model(open_clip="MobileCLIP2-S0"), {}, TRAIN)
    less = TrainSettings(steps=1, batch=8, learning_rate=1e-3, gradient_checkpointing=True)
    assert size_model("x", Model(open_clip="MobileCLIP2-S0"), {}, less).activations < plain.activations / 2
    halves = TRAIN.model_copy(update={"precision": "bf16"})
    assert plain.training_bytes(halves) < plain.training_bytes(TRAIN)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"text_cfg": None}, r"the model has no text tower \('text_cfg'\); .*docs/add-a-teacher.md"),
        ({"vision_cfg": None}, r"the model has no image tower"),
        ({"embed_dim": None}, r"'embed_dim' is missing"),
        ({"vision_cfg": {"timm_model_name": "no_such_model", "image_size": 32}}, r"open_clip cannot build a model"),
        (
            {"vision_cfg": {"timm_model_name": "vit_tiny_patch16_224", "timm_proj": "linear", "image_size": 96}},
            r"'image_size' is 96, but the image tower only takes 224 x 224",
        ),
        (
            {"vision_cfg": {"timm_model_name": "resnet18", "timm_pool": "avg", "timm_proj": "none", "image_size": 32}},
            r"the image tower gives 512 dimensions, and 'embed_dim' is 16",
        ),
        (
            {"text_cfg": {"context_length": 12, "vocab_size": 1000, "width": 16, "heads": 2, "layers": 1}},
            r"the tokenizer gives the token 49407, and the text tower has a vocabulary of 1,000",
        ),
    ],
)
def test_invalid_model_configurations_are_reported(changes, said):
    with pytest.raises(UserError, match=rf"^teachers\.a\.model: .*{said}"):
        size_model("teachers.a.model", Model(config=config(**changes)), {}, None)


def test_a_captioner_must_generate_captions():
    captioner = Captioner(name="a", model=Model(config=config()))
    with pytest.raises(
        UserError, match=r"captioners\.a\.model: CustomTextCLIP .* cannot generate captions; use a CoCa"
    ):
        size_captioner("captioners.a", captioner, {})


def test_a_small_captioner_and_a_locked_teacher_are_sized(tiny):
    demo = load(PROFILES / "demo.yaml")
    small = size_captioner("captioners.a", demo.captioners[0], {})
    assert small.size == 96 and small.image_parameters > 3e6
    spec = demo.teachers[0].locked
    assert spec
    locked = size_locked("teachers.a.locked", spec, None)
    assert locked.size == 96 and locked.image_parameters == 3_371_008 and locked.image_flops > 1e8
    with pytest.raises(UserError, match=r"timm has no model 'tf_efficientnet_litte0'.*did you mean"):
        size_locked("teachers.a.locked", spec.model_copy(update={"trunk": "tf_efficientnet_litte0"}), None)
    (tiny.parent / "weights.safetensors").touch()
    with pytest.raises(UserError, match=r"teachers\.a\.locked\.text_weights: .* cannot build a text encoder"):
        size_locked("teachers.a.locked", spec, tiny.parent / "weights.safetensors")
