"""Test frozen towers of several families with small random weights in the layouts of timm and transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file, save_file
from timm.data import create_transform, resolve_model_data_config

from benchmarks._small_models import small_tokenizer
from mobileclip2.config.model import Weights
from mobileclip2.config.teacher import Locked
from mobileclip2.errors import WeightsError
from mobileclip2.teachers.locked import build_locked
from mobileclip2.teachers.text_encoder import POOLING, TrimmedTokenizer, build_text_encoder
from mobileclip2.teachers.trunk import build_trunk, trunk_preprocess, trunk_width
from tests.tiny import draw

TEXTS = ["a photo of a dog", "red"]
TRUNKS = {
    "vit_tiny_patch16_dinov3_qkvb.eupe_lvd1689m": 64,
    "vit_small_patch14_dinov2.lvd142m": 56,
    "test_resnet.r160_in1k": 64,
    "test_convnext.r160_in1k": 64,
    "test_vit3.r160_in1k": 64,
    "tf_efficientnet_lite0": 64,
    "mobilenetv3_small_050": 64,
}
ENCODERS = {
    "bert": (transformers.BertConfig, "bert"),
    "roberta": (transformers.RobertaConfig, "roberta"),
    "xlm-roberta": (transformers.XLMRobertaConfig, "xlm"),
    "mpnet": (transformers.MPNetConfig, "bert"),
    "distilbert": (transformers.DistilBertConfig, "bert"),
    "t5": (transformers.T5Config, "mt5"),
}


def spec(trunk: str = "test_vit", size: int = 64, **fields) -> Locked:
    anything = {"path": "anything"}
    values = {"trunk": trunk, "size": size, "trunk_weights": anything, "text_weights": anything, "embed_dim": 16}
    train = {"steps": 1, "batch": 4, "learning_rate": 1e-3}
    return Locked.model_validate({**values, "train": train, **fields})


def trunk_file(folder: Path, name: str, **options) -> Path:
    torch.manual_seed(0)
    model = timm.create_model(name.partition(".")[0], **options)
    state = {key: tensor.contiguous().clone() for key, tensor in model.state_dict().items()}
    save_file(state, folder / "trunk.safetensors")
    return folder / "trunk.safetensors"


def text_folder(folder: Path, kind: str) -> Path:
    """Write a small encoder and its tokenizer, and return the path of the weights."""
    config_class, tokenizer = ENCODERS[kind]
    tokenizer = small_tokenizer(tokenizer)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    if kind == "distilbert":
        sizes = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}
    if kind == "t5":
        sizes = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
    config = config_class(vocab_size=512, pad_token_id=tokenizer.pad_token_id, **sizes)
    torch.manual_seed(0)
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder / "model.safetensors"


@pytest.mark.parametrize("name", TRUNKS)
def test_a_trunk_of_any_family_has_the_features_of_timm(tmp_path, name):
    options = {"num_classes": 10} if timm.get_pretrained_cfg(name).num_classes else {}
    file = trunk_file(tmp_path, name, **options)
    trunk = build_trunk(spec(name, TRUNKS[name]), file)
    images = torch.rand(2, 3, TRUNKS[name], TRUNKS[name])
    fixed = {"img_size": TRUNKS[name]} if timm.get_pretrained_cfg(name).fixed_input_size else {}
    expected = timm.create_model(
        name.partition(".")[0],
        pretrained=True,
        pretrained_cfg_overlay={"file": str(file), "num_classes": options.get("num_classes", 0)},
        num_classes=0,
        **fixed,
    ).eval()
    with torch.inference_mode():
        torch.testing.assert_close(trunk(images), expected(images))
    assert trunk_width(trunk, TRUNKS[name]) == expected(images).shape[1]
    assert not any(parameter.requires_grad for parameter in trunk.parameters())


@pytest.mark.parametrize("name", ["vit_small_patch14_dinov2.lvd142m", "resnet50.tv_in1k", "test_vit3.r160_in1k"])
def test_preprocessing_equals_the_published_one(name):
    preprocess = trunk_preprocess(spec(name, 64))
    model = timm.create_model(name, num_classes=0)
    data = {**resolve_model_data_config(model), "input_size": (3, 64, 64), "crop_pct": 1.0}
    image = draw("red circle", "published").resize((90, 70))
    torch.testing.assert_close(preprocess.whole(image), create_transform(**data)(image))


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_text_encoder_of_any_family_has_the_features_of_transformers(tmp_path, kind, pooling):
    file = text_folder(tmp_path, kind)
    encoder = build_text_encoder(file, 16, 24, pooling)
    found = encoder.features(TrimmedTokenizer(str(file.parent), 24)(TEXTS))
    model = transformers.AutoModel.from_pretrained(tmp_path).eval()
    model = model.get_encoder() if kind == "t5" else model
    inputs = transformers.AutoTokenizer.from_pretrained(tmp_path)(TEXTS, return_tensors="pt", padding=True)
    mask = inputs["attention_mask"]
    with torch.inference_mode():
        hidden = model(input_ids=inputs["input_ids"], attention_mask=mask).last_hidden_state
    expected = hidden[:, 0] if pooling == "cls" else (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert {name for name, each in encoder.named_parameters() if each.requires_grad} == {"proj.weight"}


def test_the_pooling_is_the_one_that_the_folder_declares(tmp_path):
    file = text_folder(tmp_path, "bert")
    assert build_text_encoder(file, 16, 24, None).pooling == "mean"
    (tmp_path / POOLING).parent.mkdir()
    (tmp_path / POOLING).write_text(json.dumps({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}))
    assert build_text_encoder(file, 16, 24, None).pooling == "cls"
    assert build_text_encoder(file, 16, 24, "mean").pooling == "mean"
    (tmp_path / POOLING).write_text(json.dumps({"pooling_mode_lasttoken": True}))
    with pytest.raises(
        WeightsError, match=r"pooling_mode_lasttoken, which is neither mean nor cls; set 'locked\.text_"
    ):
        build_text_encoder(file, 16, 24, None)


def test_the_named_file_is_loaded_among_other_weight_files(tmp_path):
    file = text_folder(tmp_path, "bert")
    state = load_file(file)
    torch.save({name: tensor + 1 for name, tensor in state.items()}, tmp_path / "mine.bin")
    mine = build_text_encoder(tmp_path / "mine.bin", 16, 24, None).transformer.state_dict()
    assert torch.equal(mine["embeddings.word_embeddings.weight"], state["embeddings.word_embeddings.weight"] + 1)


def test_weights_of_a_model_with_a_head_are_loaded(tmp_path):
    file = text_folder(tmp_path, "bert")
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    torch.manual_seed(1)
    masked = transformers.BertForMaskedLM(config)
    masked.save_pretrained(tmp_path)
    found = build_text_encoder(file, 16, 24, None).transformer.state_dict()
    expected = masked.bert.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_build_locked_joins_both_towers(tmp_path):
    trunk = trunk_file(tmp_path, "vit_tiny_patch16_dinov3_qkvb")
    text = text_folder(tmp_path / "text", "mpnet")
    locked = build_locked(spec("vit_tiny_patch16_dinov3_qkvb", 32, context=16), trunk, text)
    assert locked.embed_images(torch.rand(2, 3, 32, 32)).shape == (2, 16)
    assert locked.embed_texts(TEXTS).shape == (2, 16)
    assert locked.preprocess.mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"trunk": "vit_smal_patch14_dinov2"}, r"timm has no model .* did you mean 'vit_small_patch14_dinov2'"),
        (
            {"trunk": "test_vit.mine"},
            r"timm has no weights 'mine' for test_vit; set 'locked\.trunk' to one of: r160_in1k",
        ),
        ({"trunk": "resnet50"}, r"means, deviations or interpolations.*set 'locked\.trunk' to .*resnet50\.a1_in1k"),
        ({"trunk": "vit_small_patch14_dinov2", "size": 96}, r"'locked\.size' is 96, .*patch size 14; set 84 or 98"),
        ({"trunk": "test_resnet"}, r"does not fit the architecture"),
    ],
)
def test_an_error_about_the_trunk_names_the_field(tmp_path, fields, message):
    with pytest.raises(WeightsError, match=message):
        build_trunk(spec(**fields), trunk_file(tmp_path, "test_vit"))


def test_an_error_about_the_text_encoder_names_the_field(tmp_path):
    file = text_folder(tmp_path, "roberta")
    with pytest.raises(
        WeightsError, match=r"the text encoder has 510 positions; set 'locked\.context' to at most that"
    ):
        build_text_encoder(file, 16, 512, None)
    state = load_file(file)
    save_file({name: tensor for name, tensor in state.items() if "layer.1" not in name}, file)
    with pytest.raises(WeightsError, match=r"does not fit config\.json in its folder: encoder\.layer\.1.*is missing"):
        build_text_encoder(file, 16, 24, None)
    shutil.move(tmp_path / "config.json", tmp_path / "gone")
    with pytest.raises(WeightsError, match=r"'locked\.text_weights' must be in a folder with config\.json"):
        build_text_encoder(file, 16, 24, None)
    gpt = tmp_path / "gpt"
    tokenizer = small_tokenizer("roberta")
    tokenizer.pad_token = None
    tokenizer.save_pretrained(gpt)
    transformers.GPT2Config(vocab_size=512, n_embd=32, n_layer=1, n_head=2).save_pretrained(gpt)
    with pytest.raises(WeightsError, match="has no padding token, so this is not a text encoder"):
        build_text_encoder(gpt / "model.safetensors", 16, 24, None)


def test_towers_with_values_that_are_not_finite_are_rejected(tmp_path):
    trunk, text = trunk_file(tmp_path, "test_vit", num_classes=0), text_folder(tmp_path / "text", "bert")
    for file in (trunk, text):
        state = load_file(file)
        state[max(state, key=lambda name: state[name].numel())].view(-1)[3] = torch.nan
        save_file(state, file)
    with pytest.raises(WeightsError, match=r"trunk\.safetensors: .* not finite"):
        build_trunk(spec(), trunk)
    with pytest.raises(WeightsError, match=r"model\.safetensors: .* not finite"):
        build_text_encoder(text, 16, 24, None)


def test_unset_fields_do_not_change_the_fingerprint():
    from mobileclip2.fingerprint import declared

    assert "text_pooling" not in declared(spec())
    assert declared(spec(text_pooling="cls"))["text_pooling"] == "cls"
    assert spec(trunk_weights=Weights(path="x")) == spec(trunk_weights={"path": "x"})
