import errno
import json
import math
import tempfile
from pathlib import Path

import open_clip
import pytest
import torch
import yaml
from open_clip.pretrained import get_pretrained_cfg
from PIL import Image
from safetensors.torch import save_file

from mobileclip2.config.model import Model
from mobileclip2.errors import StoreError, UserError, WeightsError
from mobileclip2.models.build import CONFIG, WEIGHTS, _preprocess_config, build, from_config, load, save
from pipelines.profiles import PROFILES

TINY = {
    "embed_dim": 8,
    "custom_text": True,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 16, "layers": 1, "head_width": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def test_a_loaded_model_equals_the_saved_model(tmp_path):
    model = from_config({"model_cfg": TINY})
    save(model, tmp_path)
    again = load(tmp_path / CONFIG, tmp_path / WEIGHTS)
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(again.embed_images(images), model.embed_images(images))
    assert torch.equal(again.embed_texts(["a cat"]), model.embed_texts(["a cat"]))
    assert again.preprocess == model.preprocess


def test_plain_open_clip_reads_a_stored_model(tmp_path):
    model = from_config({"model_cfg": TINY})
    save(model, tmp_path)
    theirs = open_clip.create_model(f"local-dir:{tmp_path}")
    for name, tensor in model.model.state_dict().items():
        assert torch.equal(theirs.state_dict()[name], tensor), name


def test_the_seed_decides_the_initialization():
    model = Model(config=TINY)
    one, same, other = (build(model, seed=seed).model.state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_mismatched_weights_are_rejected_with_tensor_names(tmp_path):
    wider = {**TINY, "embed_dim": 16}
    save(from_config({"model_cfg": wider}), tmp_path)
    with pytest.raises(WeightsError, match=r"does not fit the architecture: \S+ is \[.*\], expected \["):
        build(Model(config=TINY), tmp_path / WEIGHTS)


def test_a_checkpoint_that_would_need_unpickling_is_refused(tmp_path):
    class Payload:
        def __reduce__(self):
            return print, ("unpickled",)

    torch.save({"state_dict": Payload()}, tmp_path / "evil.pt")
    with pytest.raises(WeightsError, match=r"evil\.pt cannot be read: Weights only load failed"):
        build(Model(config=TINY), tmp_path / "evil.pt")


@pytest.mark.parametrize("name", ["cut.safetensors", "cut.pt", "empty.safetensors", "empty.pt", "text.pt"])
def test_an_unreadable_weight_file_is_reported(tmp_path, name):
    whole = tmp_path / name.replace("cut", "whole")
    state = {"a": torch.arange(1000.0)}
    save_file(state, whole) if name.endswith(".safetensors") else torch.save(state, whole)
    data = {"cut": whole.read_bytes()[:-100], "empty": b"", "text": b"no weights\n" * 50}
    (tmp_path / name).write_bytes(data[name.partition(".")[0]])
    with pytest.raises(WeightsError, match=rf"weights: .*{name} cannot be read: .*Download it again or save it again"):
        build(Model(config=TINY), tmp_path / name)


def test_the_resize_mode_squash_is_stored(tmp_path):
    assert _preprocess_config(Model(open_clip="ViT-B-16-SigLIP"))["resize_mode"] == "squash"
    assert "resize_mode" not in _preprocess_config(Model(open_clip="MobileCLIP2-S0"))
    save(from_config({"model_cfg": TINY, "preprocess_cfg": {"resize_mode": "squash"}}), tmp_path)
    assert load(tmp_path / CONFIG, tmp_path / WEIGHTS).preprocess.resize == "squash"
    wide = Image.effect_noise((80, 48), 90).convert("RGB")
    _, _, theirs = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    torch.testing.assert_close(load(tmp_path / CONFIG, tmp_path / WEIGHTS).preprocess.whole(wide), theirs(wide))
    with pytest.raises(WeightsError, match="'resize_mode' is 'longest'; only shortest and squash are supported"):
        from_config({"model_cfg": TINY, "preprocess_cfg": {"resize_mode": "longest"}})


def names_of_the_big_profiles() -> list[str]:
    names = {"coca_ViT-L-14"}
    for profile in ("dfndr-12m", "dfndr-2b"):
        for student in yaml.safe_load((PROFILES / f"{profile}.yaml").read_text())["students"]:
            names.add(student["model"]["open_clip"])
    return sorted(names | {"MobileCLIP2-L-14"})


@pytest.mark.slow
@pytest.mark.parametrize("name", names_of_the_big_profiles())
def test_every_model_name_is_an_architecture_of_the_published_size(name):
    with torch.device("meta"):
        model = open_clip.create_model(name, load_weights=False, device="meta")
    images = sum(parameter.numel() for parameter in model.visual.parameters())
    published = {"S0": 11.4, "S2": 35.7, "B": 86.3, "S3": 125.1, "S4": 321.6, "L-14": 304.3}
    if name.startswith("MobileCLIP2"):
        assert math.isclose(images / 1e6, published[name.removeprefix("MobileCLIP2-")], rel_tol=0.02)
    else:
        assert images > 300e6


def feature_of_a_gelu(model):
    """Return the class names of the activations in the MLPs of a model."""
    return {type(module).__name__ for name, module in model.named_modules() if name.endswith("mlp.gelu")}


@pytest.mark.parametrize(("activation", "expected"), [("gelu", "GELU"), ("quick_gelu", "QuickGELU")])
def test_the_activation_of_the_profile_is_in_both_towers_and_is_stored(tmp_path, activation, expected):
    plain = {key: value for key, value in TINY.items() if key != "custom_text"}
    model = build(Model(config=plain, activation=activation))
    save(model, tmp_path)
    theirs = open_clip.create_model(f"local-dir:{tmp_path}")
    for each in (model.model, load(tmp_path / CONFIG, tmp_path / WEIGHTS).model, theirs):
        assert feature_of_a_gelu(each.visual) == feature_of_a_gelu(each.transformer) == {expected}
    assert json.loads((tmp_path / CONFIG).read_text())["model_cfg"]["quick_gelu"] == (activation == "quick_gelu")


@pytest.mark.parametrize("resize", ["shortest", "squash"])
def test_the_preprocessing_of_the_profile_is_used_and_stored(tmp_path, resize):
    given = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "interpolation": "bilinear", "resize_mode": resize}
    model = build(Model(config=TINY, preprocess=given))
    assert (model.preprocess.mean, model.preprocess.std) == (given["mean"], given["std"])
    save(model, tmp_path)
    stored = json.loads((tmp_path / CONFIG).read_text())["preprocess_cfg"]
    assert stored["mean"] == [0.1, 0.2, 0.3] and stored["interpolation"] == "bilinear"
    assert load(tmp_path / CONFIG, tmp_path / WEIGHTS).preprocess == model.preprocess
    picture = Image.effect_noise((80, 48), 90).convert("RGB")
    _, _, theirs = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    torch.testing.assert_close(model.preprocess.whole(picture), theirs(picture))


@pytest.mark.parametrize(
    "pair", [("ViT-L-14", "laion2b_s32b_b82k"), ("ViT-H-14-quickgelu", "dfn5b"), ("ViT-B-16-SigLIP", "webli")]
)
def test_a_tag_has_its_own_preprocessing(pair):
    name, tag = pair
    published = get_pretrained_cfg(name, tag)
    config = _preprocess_config(Model(open_clip=name, weights={"tag": tag}))
    assert {**config, "resize_mode": config.get("resize_mode", "shortest")} == {
        field: published[field] for field in ("mean", "std", "interpolation", "resize_mode")
    }


def test_a_released_architecture_uses_its_published_preprocessing():
    built = build(Model(open_clip="MobileCLIP2-S0"))
    assert built.preprocess.mean == (0.0, 0.0, 0.0) and built.preprocess.std == (1.0, 1.0, 1.0)
    assert built.preprocess.size == 256 and built.preprocess.interpolation == "bilinear"


@pytest.mark.parametrize(
    ("tower", "size", "message"),
    [
        ("vit_tiny_patch16_224", 128, r"'image_size' is 128, but the image tower only takes 224 x 224 pixels"),
        ("swin_tiny_patch4_window7_224", 256, r"'image_size' is 256, but the image tower only takes 224 x 224"),
        (
            "nothing_of_timms",
            224,
            r"cannot build a model from this 'config' \(RuntimeError: Unknown model.*nothing_of_timms",
        ),
    ],
)
def test_an_invalid_tower_or_image_size_is_reported(tower, size, message):
    with pytest.raises(UserError, match=message):
        build(Model(config=with_timm(tower, size)))


def test_a_flexible_tower_takes_the_requested_image_size():
    model = build(Model(config=with_timm("efficientnet_lite0", 96)))
    assert model.preprocess.size == 96 and model.model.encode_image(torch.zeros(1, 3, 96, 96)).shape == (1, 16)


def with_timm(tower, size):
    pool = "token" if tower.startswith("vit") else "avg"
    return {
        "embed_dim": 16,
        "vision_cfg": {"timm_model_name": tower, "image_size": size, "timm_pool": pool, "timm_proj": "linear"},
        "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }


@pytest.mark.parametrize(
    ("preprocess", "field"),
    [
        (5, "preprocess_cfg"),
        ({"mean": 5}, "mean"),
        ({"mean": [math.nan] * 3}, "mean.0"),
        ({"std": [0, 0, 0]}, "std.0"),
        ({"size": []}, "size"),
        ({"size": [-3]}, "size"),
        ({"size": 10**9}, "size"),
        ({"interpolation": "random"}, "interpolation"),
    ],
)
def test_an_invalid_stored_preprocessing_is_reported(preprocess, field, tmp_path):
    (tmp_path / CONFIG).write_text(json.dumps({"model_cfg": TINY, "preprocess_cfg": preprocess}))
    with pytest.raises(WeightsError, match=f"{CONFIG}: model: '{field}' is invalid: .*; correct {CONFIG}"):
        load(tmp_path / CONFIG, tmp_path / WEIGHTS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not JSON; export or copy the model again"),
        (b"\xff\xfe\x00", "not JSON; export or copy the model again"),
        (b"[" * 10**5, "not JSON; export or copy the model again"),
        (b"[]", "model: 'the configuration' is invalid"),
        (b"{}", "model: 'model_cfg' is invalid"),
        (b'{"model_cfg": {}}', "model: 'model_cfg.embed_dim' is invalid"),
        (b'{"model_cfg": {"embed_dim": 8}, "text_tower": 5}', "model: 'text_tower' is invalid"),
        (b'{"model_cfg": {"embed_dim": 8}}', "model: open_clip cannot build a model"),
    ],
)
def test_an_invalid_configuration_of_a_stored_model_is_reported(content, message, tmp_path):
    (tmp_path / CONFIG).write_bytes(content)
    with pytest.raises(UserError, match=f"{CONFIG}: {message}"):
        load(tmp_path / CONFIG, tmp_path / WEIGHTS)


def test_a_full_disk_for_temporary_files_is_reported(monkeypatch):
    def full(*some, **more):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(StoreError, match=r"temporary files: cannot be written \(No space left on device\)"):
        from_config({"model_cfg": TINY})


def test_a_missing_folder_for_temporary_files_is_reported(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc/no such folder"])
    with pytest.raises(StoreError, match="temporary files: cannot be written"):
        from_config({"model_cfg": TINY})


def test_a_coca_from_scratch_is_initialized_from_the_seed():
    vision = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16}
    vision |= {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
    text = {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    config = {
        "embed_dim": 16,
        "custom_text": True,
        "vision_cfg": vision,
        "text_cfg": {**text, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {**text, "attn_pooler_heads": 2},
    }
    first, second = (build(Model(config=config), seed=3).model.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    projection = first["text_decoder.text_projection"]
    assert projection.std().item() == pytest.approx(32**-0.5, rel=0.05)
