"""Checkpoints of common training programs are converted, or rejected with the cause and the remedy."""

from __future__ import annotations

import re

import pytest
import torch
from safetensors.torch import save_file

from mobileclip2.config.model import Model
from mobileclip2.errors import WeightsError
from mobileclip2.models.build import build, from_config
from mobileclip2.models.checkpoint import convert, load_weights, read_state
from mobileclip2.models.reparameterize import reparameterize
from tests.mobileclip2.models.small_towers import TRANSFORMER, VIT, timm

CLIP = {"embed_dim": 8, "vision_cfg": VIT, "text_cfg": TRANSFORMER}
CUSTOM = {**CLIP, "custom_text": True}
MOBILECLIP = {
    **CUSTOM,
    "vision_cfg": timm("fastvit_mci0", timm_pool="avg", timm_proj=None),
    "text_cfg": {**TRANSFORMER, "no_causal_mask": True},
}
TEXTS = ["a cat", "two dogs on a hill"]


def model_of(config, seed=0):
    torch.manual_seed(seed)
    return from_config({"model_cfg": config})


def state_of(config, seed=0):
    return {name: tensor.clone() for name, tensor in model_of(config, seed).model.state_dict().items()}


def loads(config, state, path, save=torch.save):
    """Save a state, build a model from the file, and return the model."""
    save(state, path)
    return build(Model(config=config), path, seed=5)


def are_equal(one, other):
    images = torch.rand(2, 3, one.preprocess.size, one.preprocess.size)
    torch.testing.assert_close(one.embed_images(images), other.embed_images(images))
    torch.testing.assert_close(one.embed_texts(TEXTS), other.embed_texts(TEXTS))
    return True


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        lambda state: {f"_orig_mod.{name}": tensor for name, tensor in state.items()},
        lambda state: {f"module._orig_mod.{name}": tensor for name, tensor in state.items()},
        lambda state: {f"_orig_mod.module.{name}": tensor for name, tensor in state.items()},
        lambda state: {name.replace("visual.", "visual._orig_mod."): tensor for name, tensor in state.items()},
        lambda state: {f"model.{name}": tensor for name, tensor in state.items()},
        lambda state: {"model": state, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}, "epoch": 3},
        lambda state: {"state_dict": {f"module.{name}": t for name, t in state.items()}, "name": "run", "epoch": 3},
        lambda state: {"model_state_dict": state},
        lambda state: {"module": {"state_dict": state}},
        lambda state: {**state, "input_resolution": torch.tensor(32), "vocab_size": torch.tensor(49408)},
        lambda state: {name: tensor.half() for name, tensor in state.items()},
    ],
)
def test_weights_of_training_programs_are_converted(tmp_path, wrap):
    model, expected = loads(CLIP, wrap(state_of(CLIP)), tmp_path / "a.pt").model.state_dict(), state_of(CLIP)
    for name, tensor in expected.items():
        torch.testing.assert_close(model[name], tensor, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("given", "wanted"), [(CLIP, CUSTOM), (CUSTOM, CLIP)])
def test_clip_and_custom_text_are_converted_to_each_other(tmp_path, given, wanted):
    assert are_equal(loads(wanted, state_of(given), tmp_path / "a.pt"), model_of(given))


def test_the_positional_embeddings_of_images_and_texts_are_resized(tmp_path, caplog):
    larger = {**CLIP, "vision_cfg": {**VIT, "image_size": 64}, "text_cfg": {**TRANSFORMER, "context_length": 16}}
    built = loads(larger, state_of(CLIP), tmp_path / "a.pt")
    assert built.model.visual.positional_embedding.shape[0] == 17 and built.model.positional_embedding.shape[0] == 16
    assert torch.equal(built.model.positional_embedding[0], model_of(CLIP).model.positional_embedding[0])
    assert "visual.positional_embedding is resized from [5, 16] to [17, 16]" in caplog.text
    assert "positional_embedding is resized from [12, 16] to [16, 16]" in caplog.text


@pytest.mark.parametrize(("one", "other"), [(False, True), (True, False)])
def test_a_logit_scale_of_another_shape_is_converted(tmp_path, one, other):
    given, wanted = ({**CLIP, "nonscalar_logit_scale": each, "init_logit_bias": -3} for each in (one, other))
    built = loads(wanted, state_of(given), tmp_path / "a.pt")
    assert built.model.logit_scale.shape == ((1,) if other else ())
    assert built.model.logit_bias.item() == -3 and built.model.logit_scale.item() == pytest.approx(2.6593, abs=1e-3)


def test_softmax_weights_in_a_sigmoid_model_have_a_zero_bias(tmp_path):
    assert loads({**CLIP, "init_logit_bias": -10}, state_of(CLIP), tmp_path / "a.pt").model.logit_bias == 0


def original_names(state):
    """Return the state under the names of the MobileCLIP repository, which open_clip and timm convert."""
    found = {"logit_scale": state["logit_scale"]}
    for name, tensor in state.items():
        if name.startswith("visual.trunk."):
            name = name.removeprefix("visual.trunk.").replace("stem", "patch_embed").replace(".mlp.", ".convffn.")
            for theirs, ours in (
                ("rbr_conv", "conv_kxk"),
                ("rbr_scale", "conv_scale"),
                ("rbr_skip", "identity"),
                ("conv_exp", "final_conv"),
                ("lkb_origin", "large_conv"),
                ("se.reduce", "se.fc1"),
                ("se.expand", "se.fc2"),
            ):
                name = name.replace(ours, theirs)
            name = re.sub(r"(layer_scale(_\d)?)\.gamma", r"\1", name)
            name = re.sub(r"stages\.(\d)\.downsample\.", lambda m: f"network.{2 * int(m[1]) - 1}.", name)
            name = re.sub(r"stages\.(\d)\.pos_emb\.pos_enc", lambda m: f"network.{2 * int(m[1])}.pe", name)
            # the last stage begins with its positional embedding
            name = re.sub(r"stages\.(\d)\.blocks", lambda m: f"network.{2 * int(m[1]) + (m[1] == '3')}", name)
            if name == "head.fc.bias":
                continue
            if name == "head.fc.weight":
                name, tensor = "head.proj", tensor.T
            found[f"image_encoder.model.{name}"] = tensor
        elif name.startswith("text."):
            name = name.removeprefix("text.").replace("resblocks.", "")
            for theirs, ours in (
                ("projection_layer", "text_projection"),
                ("embedding_layer", "token_embedding"),
                ("final_layer_norm", "ln_final"),
                ("pre_norm_mha.0", "ln_1"),
                ("pre_norm_ffn.0", "ln_2"),
                ("pre_norm_ffn.1", "mlp.c_fc"),
                ("pre_norm_ffn.4", "mlp.c_proj"),
                ("pre_norm_mha.1.qkv_proj.weight", "attn.in_proj_weight"),
                ("pre_norm_mha.1.qkv_proj.bias", "attn.in_proj_bias"),
                ("pre_norm_mha.1", "attn"),
            ):
                name = name.replace(ours, theirs)
            if name == "positional_embedding":
                name, tensor = "positional_embedding.pos_embed.pos_embed", tensor[None, None]
            found[f"text_encoder.{name}"] = tensor
    return found


def test_the_original_names_of_mobileclip_are_converted(tmp_path):
    expected = state_of(MOBILECLIP)
    expected["visual.trunk.head.fc.bias"].zero_()
    built = loads(MOBILECLIP, original_names(expected), tmp_path / "a.pt").model.state_dict()
    for name, tensor in expected.items():
        assert torch.equal(built[name], tensor), name


@pytest.mark.parametrize("original", [False, True])
def test_reparameterized_weights_are_rejected(tmp_path, original):
    fused = reparameterize(model_of(MOBILECLIP).model).state_dict()
    with pytest.raises(WeightsError, match=r"a\.pt: does not fit .* These weights are reparameterized: .* before the"):
        loads(MOBILECLIP, original_names(fused) if original else dict(fused), tmp_path / "a.pt")


@pytest.mark.parametrize("wanted", [CLIP, CUSTOM])
def test_clip_of_transformers_is_converted(tmp_path, wanted):
    from transformers import CLIPConfig, CLIPModel

    tower = {"hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    theirs = CLIPModel(
        CLIPConfig(
            projection_dim=8,
            vision_config={**tower, "image_size": 32, "patch_size": 16, "hidden_act": "gelu"},
            text_config={**tower, "max_position_embeddings": 12, "hidden_act": "gelu", "eos_token_id": 2},
        )
    ).eval()
    config = {**wanted, "vision_cfg": {**VIT, "layers": 2}, "text_cfg": {**TRANSFORMER, "layers": 2}}
    ours = loads(config, theirs.state_dict(), tmp_path / "model.safetensors", save_file_of)
    images, tokens = torch.rand(2, 3, 32, 32), ours.tokenize(TEXTS)
    with torch.inference_mode():
        seen = theirs(pixel_values=images, input_ids=tokens)
    torch.testing.assert_close(ours.embed_images(images), seen.image_embeds, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.embed_texts(TEXTS), seen.text_embeds, rtol=1e-4, atol=1e-5)


def save_file_of(state, path):
    save_file({name: tensor.contiguous().clone() for name, tensor in state.items()}, path)


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("vision_model.head.probe", "are in the layout of transformers. Only CLIP is converted"),
        ("image_encoder.model.conv.weight", "are MobileCLIP's original names"),
        ("base_model.model.visual.lora_A.weight", r"are adapters \(LoRA\): merge them"),
    ],
)
def test_weights_in_another_layout_are_rejected_with_the_cause(tmp_path, name, cause):
    with pytest.raises(WeightsError, match=rf"does not fit the architecture: .* missing.*{cause}"):
        loads(CLIP, {name: torch.zeros(2)}, tmp_path / "a.pt")


def test_the_file_format_is_detected_by_content_not_by_name(tmp_path):
    state = state_of(CLIP)
    for path, save in ((tmp_path / "a.pt", save_file_of), (tmp_path / "b.safetensors", torch.save)):
        built = loads(CLIP, state, path, save).model.state_dict()
        assert all(torch.equal(built[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["logit_scale", "visual.ln_post.bias", "token_embedding.weight"])
def test_values_that_are_not_finite_are_refused(tmp_path, name, value):
    state = state_of(CLIP)
    state[name].view(-1)[-1] = value
    with pytest.raises(WeightsError, match=rf"a\.pt: {name} contains values that are not finite"):
        loads(CLIP, state, tmp_path / "a.pt")


def test_a_torchscript_archive_is_rejected(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "ViT-B-32.pt"))
    with pytest.raises(WeightsError, match=r"ViT-B-32\.pt is a TorchScript archive, which contains code; load it once"):
        read_state(tmp_path / "ViT-B-32.pt")


def test_a_git_lfs_pointer_is_rejected(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    with pytest.raises(WeightsError, match="is a pointer of Git LFS, not the file; run 'git lfs pull'"):
        read_state(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3, "weights": {"a": torch.zeros(1)}}, "'epoch' is not a tensor. Save model"),
        ([torch.zeros(1)], "it has no tensors by name"),
        ({}, "it has no tensors by name"),
    ],
)
def test_a_file_without_weights_is_rejected(tmp_path, content, message):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match=re.escape(message)):
        read_state(tmp_path / "a.pt")


def test_weights_of_the_same_model_are_not_changed():
    model = model_of(CUSTOM)
    state = state_of(CUSTOM, seed=1)
    assert convert(model.model, state, "a") == state
    load_weights(model.model, state, "a")
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.model.state_dict().items())
